"""Many tokens at once are dense attention over the same tokens, in memory that grows with them, rounded once."""

from __future__ import annotations

import pytest
import torch

from cokv.cache.attention import buckets, reference
from cokv.cache.layer import RaggedLayer
from cokv.cache.live_bytes import live_bytes
from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import Grow
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage import chunk

HEADS, GROUP, DIM = 2, 4, 32
SCALING = DIM**-0.5


def drawn(stored: int, new: int, rows: int, dtype: torch.dtype, spread: float = 1.0) -> tuple[torch.Tensor, ...]:
    """queries [rows, num_heads, new, dim]; keys and values [rows, num_kv_heads, stored + new, dim]."""
    generator = torch.Generator().manual_seed(0)
    queries = spread * torch.randn(rows, HEADS * GROUP, new, DIM, generator=generator)
    keys, values = (torch.randn(rows, HEADS, stored + new, DIM, generator=generator) for _ in range(2))
    return queries.to(dtype), keys.to(dtype), values.to(dtype)


def filled(keys: torch.Tensor, values: torch.Tensor, stored: int, policy: Policy, attend: object) -> RaggedLayer:
    layer = RaggedLayer(attend=attend)  # type: ignore[arg-type]
    views = [
        PrefillLayer(0, k[:, :stored], v[:, :stored], k[:, :stored].repeat_interleave(GROUP, 0), SCALING)
        for k, v in zip(keys, values, strict=True)
    ]
    layer.fill(views, [[torch.arange(stored)] * HEADS] * len(keys), [policy] * len(keys))
    return layer


def dense(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, softmax: bool = True) -> torch.Tensor:
    """In float64, or as transformers' own attention computes it."""
    mask = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool).tril(keys.shape[2] - queries.shape[2])
    keys, values = (part.repeat_interleave(GROUP, 1) for part in (keys, values))
    if not softmax:
        attention = torch.nn.functional.scaled_dot_product_attention
        return attention(queries, keys, values, attn_mask=mask, scale=SCALING)
    logits = queries.double() @ keys.double().transpose(-1, -2) * SCALING
    return logits.masked_fill(~mask, -torch.inf).softmax(-1) @ values.double()


@pytest.mark.parametrize("policy", [Grow(), PruneChannels(0.0)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("stored", [0, 1, 50])
@pytest.mark.parametrize("block", [1, 7, 16, 1000])
def test_blocks_of_queries_are_dense_attention(
    block: int, stored: int, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk, "LOGITS", 0)
    monkeypatch.setattr(chunk, "LEAST", block)
    queries, keys, values = drawn(stored, 37, 3, torch.float64)
    layer = filled(keys, values, stored, policy, buckets.attend)
    got = layer.attend(queries, keys[:, :, stored:], values[:, :, stored:], SCALING)
    torch.testing.assert_close(got, dense(queries, keys, values), rtol=0, atol=1e-12)
    assert layer.stored_tokens == 3 * HEADS * (stored + 37)


@pytest.mark.parametrize("policy", [Grow(), PruneChannels(0.0)], ids=lambda p: type(p).__name__)
def test_memory_grows_with_a_chunk_not_with_its_square(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "LOGITS", 1 << 14)
    peaks = {}
    for new in (256, 2048):
        queries, keys, values = drawn(64, new, 1, torch.float32)
        layer = filled(keys, values, 64, policy, reference.attend)
        with live_bytes() as held:
            layer.attend(queries, keys[:, :, 64:], values[:, :, 64:], SCALING)
        peaks[new] = held.peak
    assert peaks[2048] < 8 * peaks[256] + (1 << 20), peaks
    assert peaks[2048] < HEADS * GROUP * 2048 * 2048, f"{peaks}: less than a quarter of one matrix of logits"


@pytest.mark.parametrize("spread", [1.0, 4.0])
@pytest.mark.parametrize("backend", [reference, buckets], ids=lambda b: b.__name__.rpartition(".")[2])
@pytest.mark.parametrize(
    ("policy", "new"),
    [(Grow(), 16), (PruneChannels(0.0), 16), (Recall(1024, 32), 1), (Recall(1024, 32), 9)],
    ids=str,
)
def test_bfloat16_in_parts_loses_no_more_than_transformers_own_attention(
    policy: Policy, new: int, backend: object, spread: float
) -> None:
    queries, keys, values = drawn(300, new, 2, torch.bfloat16, spread)
    exact = dense(queries, keys, values)
    allowed = 1.6 * (dense(queries, keys, values, softmax=False).double() - exact).norm()
    layer = filled(keys, values, 300, policy, backend.attend)  # type: ignore[attr-defined]
    got = layer.attend(queries, keys[:, :, 300:], values[:, :, 300:], SCALING)
    assert got.dtype == torch.bfloat16
    assert (got.double() - exact).norm() < allowed
