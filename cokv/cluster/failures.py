"""A limit on retries: a block at which worker after worker dies is not tried for ever."""

from __future__ import annotations

from collections import Counter

from cokv.types import CokvError

MAX_DEATHS = 3  # of workers at one block, one after the other


class WorkerFailures:
    """Counts workers that died at a block, or, under None, before their first."""

    def __init__(self) -> None:
        self.count: Counter[int | None] = Counter()

    def add(self, block: int | None, how: str) -> None:
        self.count[block] += 1
        if self.count[block] >= MAX_DEATHS:
            place = "before their first block" if block is None else f"at block {block}"
            raise CokvError(
                f"{MAX_DEATHS} workers died {place} ({how}), expected them to live; this is often memory: use fewer "
                "workers, fewer prompts, or a machine that has more"
            )

    def reset(self, block: int | None) -> None:
        """After a worker has finished the block."""
        del self.count[block]
