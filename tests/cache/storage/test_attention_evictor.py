"""Rules by attention drop the same tokens however a backend attends, and whatever it tells of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cokv.cache.attention import buckets, choose, reference
from cokv.cache.attention.backend import Attend, Backend
from cokv.cache.layer import RaggedLayer
from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.attention_evictor import AttentionEvictor
from cokv.cache.storage.plain import PlainRows
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.methods.scorers.accumulated_attention import AttentionSum
from cokv.model.token_kinds import TokenKinds

SEQ_LEN, LIMIT, HEADS, GROUP, DIM, STEPS = 60, 20, 2, 3, 16, 26
RULES: list[EvictsByAttention] = [
    H2OEviction(LIMIT),
    H2OEviction(LIMIT, kernel_size=3),
    TOVAEviction(LIMIT),
    ScissorhandsEviction(LIMIT, 16, 3),
    CakeEviction(LIMIT, 6),
    FastGenEviction(LIMIT),
    FastGenEviction(LIMIT, 0.1, 0.1),
]


def drawn(*size: int, seed: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def filled(attend: Attend, policies: list[Policy], fewer: int, softcap: float | None) -> RaggedLayer:
    """Rows whose second head holds `fewer` tokens than the limit; with 0 they all hold as many as they may."""
    keys, values = drawn(2, HEADS, SEQ_LEN, DIM, seed=1)
    sums, kinds = drawn(HEADS, SEQ_LEN, seed=2).abs(), torch.arange(SEQ_LEN) % 5 // 4
    observed: dict[Any, tuple[torch.Tensor, ...]] = {AttentionSum(): (sums,), TokenKinds(): (kinds,)}
    observed |= {p.observers[1]: (sums, sums) for p in policies if isinstance(p, FastGenEviction)}
    view = PrefillLayer(0, keys, values, drawn(HEADS * GROUP, 17, DIM, seed=3), DIM**-0.5, observed)
    layer = RaggedLayer(0, attend=attend)
    layer.backend = Backend(attend, softcap)
    newest = torch.arange(SEQ_LEN - 8, SEQ_LEN)
    kept = [torch.cat([torch.arange(0, 2 * (LIMIT - 8), 2)[head * fewer :], newest]) for head in range(HEADS)]
    layer.fill([view], [kept] * len(policies), policies)
    return layer


def step(layer: RaggedLayer, rows: int, seed: int, sinks: torch.Tensor | None) -> torch.Tensor:
    layer.token_kinds = torch.full((rows, 1), seed % 5 // 4 * 3)
    queries, new = drawn(1, HEADS * GROUP, 1, DIM, seed=seed), drawn(2, 1, HEADS, 1, DIM, seed=seed + 1000)
    keys, values = (part.expand(rows, -1, -1, -1) for part in new)
    return layer.attend(queries.expand(rows, -1, -1, -1), keys, values, DIM**-0.5, sinks)


def held(layer: RaggedLayer) -> list[set[int]]:
    ((_, part),) = layer.parts
    assert isinstance(part, PlainRows)
    heads: dict[int, set[int]] = {}
    for watcher in part.evictors:
        assert isinstance(watcher, AttentionEvictor)
        for segment, positions in zip(watcher.segments.tolist(), watcher.positions.tolist(), strict=True):
            heads[segment] = {p for p in positions if p >= 0}
            assert len(heads[segment]) == part.store.lengths[segment], "notes and storage disagree"
    return [heads[segment] for segment in sorted(heads)]


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("case", ["full", "fewer", "beside", "sinks", "softcap"])
def test_every_backend_drops_the_same(rule: EvictsByAttention, case: str) -> None:
    """Alone, in heads of unlike sizes, beside a row that grows; then the first row leaves, and the rest goes on."""
    fewer = 3 if case == "fewer" and not rule.same_in_all_heads else 0
    policies: list[Policy] = [rule, rule, Grow()] if case == "beside" else [rule, rule]
    sinks = drawn(HEADS * GROUP, seed=5) if case == "sinks" else None
    ways = [choose.attend, buckets.attend, reference.attend]
    layers = [filled(attend, policies, fewer, 2.0 if case == "softcap" else None) for attend in ways]
    rows, seen = len(policies), set()
    for seed in range(STEPS):
        if seed == STEPS // 2:
            for layer in layers:
                layer.keep_rows(torch.arange(1, rows))
            rows -= 1
        outputs = [step(layer, rows, seed, sinks) for layer in layers]
        for layer, output in zip(layers[1:], outputs[1:], strict=True):
            torch.testing.assert_close(output, outputs[0], rtol=0, atol=2e-5)
            assert held(layer) == held(layers[0]), f"after step {seed}"
        seen |= set().union(*held(layers[0]))
    assert len(seen) > LIMIT + 5 and max(seen) > SEQ_LEN
