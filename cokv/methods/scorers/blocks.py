"""How much is computed at once: what a scorer or profiler holds stays bounded, however long the prompt."""

from __future__ import annotations

CHUNK = 2**23  # numbers (32 MiB of float32, of which a few copies live for a moment)


def at_once(numbers: int) -> int:
    """How many things of `numbers` numbers each are held at once; one at least."""
    return max(1, CHUNK // numbers)
