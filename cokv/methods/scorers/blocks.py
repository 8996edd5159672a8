"""Block size of computations, so that a scorer's or profiler's memory is bounded for any prompt length."""

from __future__ import annotations

CHUNK = 2**23  # numbers per block (32 MiB of float32, of which a few temporary copies exist)


def at_once(numbers: int) -> int:
    """How many items of `numbers` numbers each fit in one block; at least one."""
    return max(1, CHUNK // numbers)
