"""Queries over flat storage whose slack is NaN, so that reading it would show."""

from __future__ import annotations

import torch


def storage(lengths: list[int], group: int, dim: int, dtype: torch.dtype, seed: int = 0, slack: int = 3) -> tuple:
    """queries, keys, values, starts, lengths with `slack` slots of NaN after every segment."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor(lengths)
    starts = (counts + slack).cumsum(0) - (counts + slack)
    slots = int((counts + slack).sum())
    queries = torch.randn(len(lengths), group, dim, generator=generator).to(dtype)
    keys, values = (torch.randn(slots, dim, generator=generator).to(dtype) for _ in range(2))
    for start, length in zip(starts.tolist(), lengths, strict=True):
        keys[start + length : start + length + slack] = torch.nan
        values[start + length : start + length + slack] = torch.nan
    return queries, keys, values, starts, counts
