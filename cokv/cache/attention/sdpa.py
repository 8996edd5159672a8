"""torch's own flash attention for the CPU, a run of like segments at a time: what a CPU without a C compiler has.

Segments of one length, one as far behind the next as the others, are a view [segments, tokens, channels] of flat
storage: even budgets take one call and copy nothing, uneven ones a call per segment. The operator gives the
log-sum-exp that the public `scaled_dot_product_attention` keeps to itself. Accumulates in float32. No logits cap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from cokv.cache.attention import buckets
from cokv.types import CokvError

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_operator = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def missing() -> str | None:
    """Why it is not available here, in words."""
    return f"torch {torch.__version__} has no flash attention for the CPU" if _operator is None else None


def refusal(device: torch.device, dtype: torch.dtype, head_dim: int, softcap: float | None = None) -> str | None:
    """Why it cannot serve such keys, in words."""
    if softcap is not None:
        return "has no logits cap"
    if device.type != "cpu":
        return f"runs on the CPU, not on {device.type!r}"
    if dtype not in DTYPES:
        return f"computes in float32, float64, bfloat16 and float16, not in {str(dtype).removeprefix('torch.')}"
    return None


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    at_most: Sequence[int] | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference.attend`; `at_most` is not needed. Keys that have lost channels go through `buckets`: the operator
    takes none that are narrower than their values.
    """
    if softcap is not None:
        raise CokvError("attention 'sdpa' has no logits cap; use 'buckets'")
    if keys.shape[1] != values.shape[1]:
        return buckets.attend(queries, keys, values, starts, lengths, scaling, at_most)
    assert _operator is not None
    keys, values, segments = keys.contiguous(), values.contiguous(), len(queries)
    out: torch.Tensor | None = None
    for first, count, start, length, apart in _runs(starts.tolist(), lengths.tolist()):
        if length:
            size, stride = (count, length, keys.shape[1]), (apart * keys.shape[1], keys.shape[1], 1)
            k, v = (
                part.as_strided(size, stride, start * keys.shape[1])[None].to(queries.dtype) for part in (keys, values)
            )
            some, some_lse = _operator(queries[None, first : first + count], k, v, scale=scaling)
            if count == segments:
                return some[0], some_lse[0]
        if out is None:
            wide = torch.promote_types(queries.dtype, torch.float32)
            out, lse = torch.zeros_like(queries), queries.new_full(queries.shape[:2], -torch.inf, dtype=wide)
        if length:
            out[first : first + count], lse[first : first + count] = some[0], some_lse[0]
    if out is None:  # no segments
        return torch.zeros_like(queries), queries.new_empty(queries.shape[:2], dtype=torch.float32)
    return out, lse


def _runs(starts: list[int], lengths: list[int]) -> Iterator[tuple[int, int, int, int, int]]:
    """(first segment, segments, its start, length, slots from one start to the next) of segments in turn."""
    first = 0
    while first < len(starts):
        length, end = lengths[first], first + 1
        apart = starts[end] - starts[first] if end < len(starts) else 0
        while end < len(starts) and lengths[end] == length and starts[end] - starts[end - 1] == apart and apart >= 0:
            end += 1
        yield first, end - first, starts[first], length, max(apart, 0)
        first = end
