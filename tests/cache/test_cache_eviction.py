"""The oldest token goes while decoding: storage against explicit lists, and answers against a filled cache."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from greedy_steps import generated, greedy, step
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compression import SelectEachLayer
from cokv.cache.layer import RaggedLayer
from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.prefill import PrefillLayer, prefill
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]


def ragged_layer(lengths: list[int], policies: list[Policy], slack: int, heads: int = 1) -> RaggedLayer:
    """A layer whose stored keys are their own absolute positions; prompt positions are the last ones of 100."""
    layer = RaggedLayer(slack=slack)
    keys = torch.arange(100.0).view(1, 100, 1).expand(heads, 100, 1)
    rows = [lengths[i : i + heads] for i in range(0, len(lengths), heads)]
    view = PrefillLayer(0, keys, keys, keys, 1.0)
    layer.fill([view], [[torch.arange(100 - n, 100) for n in row] for row in rows], policies)
    return layer


def stored(layer: RaggedLayer) -> list[list[float]]:
    ((_, part),) = layer.parts
    spans = zip(part.store.starts.tolist(), part.store.lengths.tolist(), strict=True)
    return [part.store.k[start : start + length, 0].tolist() for start, length in spans]


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=2, max_size=6).filter(lambda n: len(n) % 2 == 0),
    limit=st.integers(2, 14),
    sinks=st.integers(0, 5),
    slack=st.integers(1, 9),
    steps=st.integers(1, 40),
    grows=st.booleans(),
    reorder=st.booleans(),
)
def test_the_oldest_token_that_is_no_sink_goes(
    lengths: list[int], limit: int, sinks: int, slack: int, steps: int, grows: bool, reorder: bool
) -> None:
    limit = max(limit, sinks + 1)
    lengths = [min(n, limit) for n in lengths]
    policies: list[Policy] = [EvictOldest(limit, sinks)] * (len(lengths) // 2)
    if grows:
        policies[0] = Grow()
    layer = ragged_layer(lengths, policies, slack, heads=2)
    naive = [[float(p) for p in range(100 - n, 100)] for n in lengths]
    for i in range(steps):
        new = torch.full((len(policies), 2, 1, 1), 100.0 + i)
        layer.attend(new, new, new, 1.0)
        for segment, head in enumerate(naive):
            if len(head) == limit and not (grows and segment < 2):
                head.remove(min(head[sinks:]))
            head.append(100.0 + i)
        if reorder and i == steps // 2:
            layer.reorder_cache(torch.arange(len(policies)).flip(0))
            layer.reorder_cache(torch.arange(len(policies)).flip(0))
        assert [sorted(head) for head in stored(layer)] == naive
        assert all(len(head) <= limit for head in naive[2 * grows :])


def test_a_prompt_shorter_than_the_limit_fills_it_first(make_model: MakeModel, prompt: Prompt) -> None:
    model, prefilled = make_model(), prefill(make_model(), prompt(10))
    cache = RaggedCache.of(prefilled, [Selection.full(3, 2, 10)], [EvictOldest(16, 4)])
    for i in range(30):
        step(model, cache, torch.tensor([[i + 1]]), 10 + i)
        assert cache.stored_tokens == 6 * min(11 + i, 16)
        assert cache.get_seq_length() == 11 + i


def test_an_evicting_row_attends_its_limit_and_no_more(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor]
) -> None:
    """Read as one chunk or token by token, with other rows beside it or alone: the same logits."""
    model, prefilled, after = make_model(), prefill(make_model(), prompt(30)), prompt(25, seed=1)
    mask = (torch.arange(30) < 4) | (torch.arange(30) >= 22)
    selection = Selection.from_mask(mask.expand(3, 2, 30))
    alone = RaggedCache.of(prefilled, [selection], [EvictOldest(12, 4)])
    one_by_one = torch.cat([step(model, alone, t.view(1, 1), 30 + i)[0] for i, t in enumerate(after)])
    beside = RaggedCache.of(prefilled, [Selection.full(3, 2, 30), selection], [Grow(), EvictOldest(12, 4)])
    chunk = step(model, beside, after.expand(2, -1), 30)
    torch.testing.assert_close(chunk[1], one_by_one, rtol=0, atol=1e-5)
    assert alone.stored_tokens == 6 * 12 and beside.stored_tokens == 6 * (12 + 30 + 25)
    torch.testing.assert_close(
        chunk[0],
        step(model, RaggedCache.of(prefilled, [Selection.full(3, 2, 30)]), after[None], 30)[0],
        rtol=0,
        atol=1e-5,
    )


def test_eviction_inside_generate_is_that_of_a_filled_cache(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(30)
    prefilled, ends = prefill(model, ids), (torch.arange(30) < 4) | (torch.arange(30) >= 22)
    filled = RaggedCache.of(prefilled, [Selection.from_mask(ends.expand(3, 2, 30))], [EvictOldest(12)])
    select = SelectEachLayer(lambda layer: [ends.nonzero()[:, 0]] * 2, 1, EvictOldest(12))
    cache = RaggedCache(model.config, select)
    with ragged_attention(model):
        got = generated(model, ids, 24, past_key_values=cache)
    assert got.tolist() == greedy(model, prefilled, filled, 24).tolist()
    assert cache.stored_tokens == filled.stored_tokens == 6 * 12


def test_eviction_settings_that_cannot_hold_are_refused(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(), prompt(10))
    with pytest.raises(CokvError, match="eviction limit"):
        RaggedCache.of(prefilled, [Selection.full(3, 2, 10)], [EvictOldest(8)])
    with pytest.raises(CokvError, match="sinks < limit"):
        EvictOldest(4, 4)
