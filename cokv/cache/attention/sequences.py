"""What libraries for sequences of any length want to know of segments: int32, made once for a layout of storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from cokv.types import CokvError

# By the starts' tensor, which a storage replaces when it moves its segments: its version, and what follows from it.
_of_starts: Any = WeakIdKeyDictionary()


@lru_cache(maxsize=64)
def int32(make: Callable[..., torch.Tensor], count: int, device: torch.device) -> torch.Tensor:
    """`make(count)`, such as torch.arange, int32 on a device; shared, so never to be written to."""
    with torch.inference_mode(False):
        return make(count, dtype=torch.int32, device=device)


def cumulative_starts(starts: torch.Tensor, slots: int) -> torch.Tensor:
    """int32 [segments + 1] where each segment begins, then the number of slots; made once for each tensor of starts."""
    if starts.is_inference():  # has no version that would tell that it was written to
        return _cumulative(starts, slots)
    version, known, cumulative = _of_starts.get(starts, (None, None, None))
    if (version, known) != (starts._version, slots):
        cumulative = _cumulative(starts, slots)
        _of_starts[starts] = starts._version, slots, cumulative
    return cumulative  # type: ignore[no-any-return]


def _cumulative(starts: torch.Tensor, slots: int) -> torch.Tensor:
    cumulative = starts.new_full((len(starts) + 1,), slots, dtype=torch.int32)
    cumulative[:-1] = starts
    return cumulative


def as_sequences(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    at_most: Sequence[int] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    """Segments as sequences of one token: query [segments, rows, channels] in the keys' dtype, key and value [slots, 1,
    channels], where each sequence's queries and its keys begin, and the longest of either.
    """
    if keys.shape[1] != values.shape[1]:
        raise CokvError(
            f"flash attention takes keys as wide as values, got {keys.shape[1]} and {values.shape[1]} channels; use "
            "attention='auto', 'triton' or 'buckets'"
        )
    longest = len(keys) if at_most is None else max(at_most, default=0)
    return (
        queries.to(keys.dtype).contiguous(),
        keys[:, None],
        values[:, None],
        int32(torch.arange, len(queries) + 1, keys.device),
        cumulative_starts(starts, len(keys)),
        1,
        max(longest, 1),
    )


def without_infinity(lse: torch.Tensor) -> torch.Tensor:
    """Flash attention gives an empty segment a log-sum-exp of +inf; ours is -inf."""
    return torch.nan_to_num(lse, nan=torch.nan, posinf=-torch.inf, neginf=-torch.inf)
