"""Which places of a storage are free, where things stay where they are put and an index says who has which."""

from __future__ import annotations

import torch


def free_places(occupied: torch.Tensor, capacity: int, count: int) -> tuple[torch.Tensor, int]:
    """`count` places that are not taken, the lowest first, and the capacity that has them.

    taken: int64, of `capacity` places. Storage that is full grows by a quarter, at least by what is missing.
    """
    free = torch.ones(capacity, dtype=torch.bool, device=occupied.device).index_fill(0, occupied, False).nonzero()[:, 0]
    if len(free) < count:
        more = max(count - len(free), capacity // 4)
        free = torch.cat([free, torch.arange(capacity, capacity + more, device=occupied.device)])
        capacity += more
    return free[:count], capacity


def nbytes(*tensors: torch.Tensor) -> int:
    """Bytes that these have allocated."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
