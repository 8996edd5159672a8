"""Block size of computations, so that a scorer's or profiler's memory is bounded for any prompt length."""

from __future__ import annotations

import torch

CHUNK = 2**23  # numbers per block (32 MiB of float32, of which a few temporary copies exist)
IN_CACHE = 2**18  # on a CPU, whose cache holds such a block over several operations: two to four times as fast
CPU = torch.device("cpu")


def at_once(numbers: int, device: torch.device = CPU) -> int:
    """How many items of `numbers` numbers each fit in one block on this device; at least one."""
    return max(1, min(CHUNK, IN_CACHE if device.type == "cpu" else CHUNK) // numbers)
