"""A capped logit and a sink, against a softmax written out."""

from __future__ import annotations

import pytest
import torch

from cokv.cache.attention import buckets, reference
from cokv.cache.attention.backend import with_sinks
from cokv.cache.layer import RaggedLayer
from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.chunk import attend_chunk
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.scorers.accumulated_attention import AttentionSum
from cokv.model.shape import Shape

CAP = 1.5


def softmax_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sink: float | None
) -> torch.Tensor:
    """queries [rows, channels] over keys, values [tokens, channels], with a cap and one more logit without a value."""
    logits = CAP * torch.tanh(queries @ keys.T * 0.7 / CAP)
    if sink is not None:
        logits = torch.cat([logits, torch.full((len(logits), 1), sink)], dim=1)
    return logits.softmax(-1)[:, : len(keys)] @ values


@pytest.mark.parametrize("attend", [reference.attend, buckets.attend])
@pytest.mark.parametrize("segments", [2, 12])
def test_caps_and_sinks_are_in_the_softmax(attend, segments: int) -> None:
    draw = torch.Generator().manual_seed(0)
    queries, keys, values = (
        torch.randn(*size, generator=draw) for size in ((segments, 2, 8), (7 * segments, 8), (7 * segments, 8))
    )
    starts, lengths = torch.arange(segments) * 7, torch.full((segments,), 5)
    sinks = torch.tensor([0.3, -1.0, 2.0, 0.0])
    out, lse = attend(queries, keys, values, starts, lengths, 0.7, softcap=CAP)
    merged, with_sink = with_sinks(out, lse, sinks)
    for segment in range(segments):
        for row in range(2):
            one, stretch = queries[segment, row : row + 1], slice(segment * 7, segment * 7 + 5)
            sink = float(sinks[segment % 2 * 2 + row])
            torch.testing.assert_close(
                out[segment, row : row + 1], softmax_attention(one, keys[stretch], values[stretch], None)
            )
            expected = softmax_attention(one, keys[stretch], values[stretch], sink)
            torch.testing.assert_close(merged[segment, row : row + 1], expected)
    torch.testing.assert_close(with_sink.exp(), lse.exp() + sinks.view(2, 2).repeat(segments // 2, 1).exp())


def test_several_new_tokens_see_the_cap_and_the_sink() -> None:
    draw = torch.Generator().manual_seed(1)
    queries, keys, values = (torch.randn(1, heads, 3, 8, generator=draw) for heads in (4, 2, 2))
    stored_keys, stored_values = (torch.randn(2, 6, 8, generator=draw) for _ in range(2))
    sinks = torch.tensor([0.3, -1.0, 2.0, 0.0])

    def stored(some: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        starts, lengths = torch.tensor([0, 6]), torch.tensor([6, 6])
        return [
            reference.attend(
                some, stored_keys.flatten(0, 1), stored_values.flatten(0, 1), starts, lengths, 0.7, softcap=CAP
            )
        ]

    out = attend_chunk(stored, 12, queries, keys, values, 0.7, sinks, CAP)
    for head in range(4):
        for token in range(3):
            seen_keys = torch.cat([stored_keys[head // 2], keys[0, head // 2, : token + 1]])
            seen_values = torch.cat([stored_values[head // 2], values[0, head // 2, : token + 1]])
            expected = softmax_attention(
                queries[0, head, token : token + 1], seen_keys, seen_values, float(sinks[head])
            )
            torch.testing.assert_close(out[0, head, token : token + 1], expected)


POLICIES = {
    "grow": Grow(),
    "evict": EvictOldest(64, 2),
    "h2o": H2OEviction(64),
    "think": PruneChannels(0.0),
    "kivi": Quantize(group=8, residual=64),
    "arkvale": Recall(64, 8),
    "razor": Compensate(0),
}


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("name", POLICIES)
def test_every_store_has_caps_and_sinks_in_its_softmax(name: str, new: int) -> None:
    """Where a rule loses nothing: tokens that a compensation token stands for are all the same."""
    draw = torch.Generator().manual_seed(2)
    seen, total, heads, group, dim = 20, 20 + new, 2, 2, 8
    keys, values = (torch.randn(heads, total, dim, generator=draw) for _ in range(2))
    queries = torch.randn(heads * group, total, dim, generator=draw)
    sinks = torch.tensor([0.3, -1.0, 2.0, 0.0])
    keys[:, :6], values[:, :6] = keys[:, :1], values[:, :1]
    shape = Shape(1, (0,), None, heads * group, heads, dim, 99, softcap=CAP)
    layer = RaggedLayer(shape=shape)
    sums = {AttentionSum(): (torch.zeros(heads, seen),)}
    view = PrefillLayer(0, keys[:, :seen], values[:, :seen], queries[:, :seen], 0.7, sums, softcap=CAP, sinks=sinks)
    kept = torch.arange(1 if name == "razor" else 0, seen)
    layer.fill([view], [[kept] * heads], [POLICIES[name]])
    now = slice(seen, total)
    out = layer.attend(queries[None, :, now], keys[None, :, now], values[None, :, now], 0.7, sinks)
    for head in range(heads * group):
        for token in range(seen, total):
            one, end = queries[head, token : token + 1], token + 1
            expected = softmax_attention(
                one, keys[head // group, :end], values[head // group, :end], float(sinks[head])
            )
            torch.testing.assert_close(out[0, head, token - seen : token - seen + 1], expected, rtol=0, atol=1e-5)
