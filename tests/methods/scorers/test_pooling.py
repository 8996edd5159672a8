"""Pooling: a token is worth what the best of its neighbours is, over a prompt and in a cache with gaps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.methods.scorers.accumulated_attention import AccumulatedAttention
from cokv.methods.scorers.last_query import LastQuery
from cokv.methods.scorers.pooling import pool, pool_by_position
from cokv.types import CokvError


def written_out(scores: dict[int, float], reach: int) -> dict[int, float]:
    return {j: max(value for i, value in scores.items() if abs(i - j) <= reach) for j in scores}


@settings(deadline=None)
@given(st.integers(1, 30), st.sampled_from([1, 3, 5, 7]), st.integers(0, 99))
def test_over_a_prompt_neighbours_are_columns(seq_len, kernel_size, seed):
    scores = torch.rand(3, seq_len, generator=torch.Generator().manual_seed(seed))
    pooled = pool(scores, kernel_size)
    for row, result in zip(scores, pooled, strict=True):
        assert result.tolist() == list(written_out(dict(enumerate(row.tolist())), kernel_size // 2).values())


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 5), st.sampled_from([1, 3, 5, 7]), st.integers(0, 99))
def test_in_a_cache_neighbours_are_near_positions_in_any_order(stored, free, kernel_size, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, wanted = [], []
    for _ in range(2):
        places = torch.randperm(3 * stored, generator=generator)[:stored]
        rows.append(torch.cat([places, torch.full((free,), -1)])[torch.randperm(stored + free, generator=generator)])
    positions = torch.stack(rows)
    scores = torch.rand(2, stored + free, generator=generator)
    pooled = pool_by_position(scores, positions, kernel_size)
    for head in range(2):
        held = {int(p): float(s) for p, s in zip(positions[head], scores[head], strict=True) if p >= 0}
        wanted = written_out(held, kernel_size // 2)
        got = {int(p): float(s) for p, s in zip(positions[head], pooled[head], strict=True) if p >= 0}
        assert got == wanted


@pytest.mark.parametrize("scorer", [AccumulatedAttention, LastQuery])
def test_the_pooled_presets_pool_the_scores_of_the_paper(prefill, scorer):
    for layer in prefill(seq_len=40).layers:
        plain, pooled = scorer().scores(layer), scorer(kernel_size=7).scores(layer)
        assert torch.equal(pooled, pool(plain, 7)) and not torch.equal(pooled, plain)
    with pytest.raises(CokvError, match="kernel_size is 4, expected an odd number"):
        scorer(kernel_size=4)
