"""Segments of like length together: padded to the next power of two, gathered, and attended as one batched product.

Padding costs at most a factor of two, whatever the spread of lengths. The gather is the price: the attention bound is
reading K and V once, this reads and writes them once more. On a CPU that pays only for many short segments; few or
long ones go through a plain loop, which copies nothing (benchmarks/ragged_attention.py). Works on CPU and CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.cache.attention import reference
from cokv.cache.attention.host_bounds import sent

# On a CPU: at most so many segments, or segments of so many numbers in K on average, are looped over.
FEW, LONG = 8, 8192


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
    """As `reference.attend`. With `at_most` it never waits for the device; lengths well below it cost padding."""
    segments = queries.shape[0]
    if at_most is None:
        if queries.device.type == "cpu" and (segments <= FEW or int(lengths.sum()) * keys.shape[1] > LONG * segments):
            return reference.attend(queries, keys, values, starts, lengths, scaling, softcap=softcap)
        at_most = lengths.tolist()
    wide = torch.promote_types(queries.dtype, torch.float32)
    out = queries.new_zeros(*queries.shape[:2], values.shape[1])
    lse = torch.full(queries.shape[:2], -torch.inf, dtype=wide, device=queries.device)
    starts = starts.clamp(max=len(keys) - 1)  # where a segment of none begins there may be no slot
    for size, members in _buckets(at_most, queries.device):
        offsets = torch.arange(size, device=queries.device)
        inside = offsets < lengths[members, None]  # [members, size]
        slots = torch.where(inside, starts[members, None] + offsets, starts[members, None])
        k, v = keys[slots], values[slots]  # [members, size, head_dim]
        logits = reference.capped(queries[members].to(wide) @ k.to(wide).transpose(1, 2) * scaling, softcap)
        logits = logits.masked_fill(~inside[:, None], -torch.inf)
        lse[members] = logits.logsumexp(-1)
        out[members] = logits.softmax(-1).to(queries.dtype) @ v.to(queries.dtype)
    return out.masked_fill_((lengths == 0)[:, None, None], 0), lse


def _buckets(at_most: Sequence[int], device: torch.device) -> list[tuple[int, torch.Tensor]]:
    """Sizes and the segments of each, int64 [members]; segments that surely have no token are in none."""
    of_size: dict[int, list[int]] = {}
    for segment, n in enumerate(at_most):
        if n:
            of_size.setdefault(1 << (n - 1).bit_length(), []).append(segment)
    members = sent(torch.tensor([segment for each in of_size.values() for segment in each], dtype=torch.int64), device)
    return list(zip(of_size, members.split([len(each) for each in of_size.values()]), strict=True))
