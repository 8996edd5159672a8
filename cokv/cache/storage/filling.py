"""How full the newest part of each segment is, counted on the host: no step asks the device whether a part is full."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Filling:
    """Every segment's part gets one token a step; at `full` tokens some of them go elsewhere. Plain numbers."""

    def __init__(self, tokens: Sequence[int], full: Sequence[float]) -> None:
        """Tokens of each segment's part, and at how many it is full: math.inf for one that never is."""
        self.tokens, self.full, self.steps = list(tokens), list(full), 0
        self._wait()

    def _wait(self) -> None:
        """Counts how many steps it takes until the first part is full."""
        self.wait = min((full - n for n, full in zip(self.tokens, self.full, strict=True)), default=math.inf)

    def _count(self) -> None:
        self.tokens, self.steps = [n + self.steps for n in self.tokens], 0

    def one_more(self) -> None:
        """One token has come to every segment."""
        self.steps += 1

    def full_segments(self) -> list[int]:
        """Those whose part is full, ascending."""
        if self.steps < self.wait:
            return []
        self._count()
        self._wait()
        return [segment for segment, (n, full) in enumerate(zip(self.tokens, self.full, strict=True)) if n >= full]

    def gave(self, segments: Sequence[int], count: int) -> None:
        """Of these segments' parts `count` tokens have gone elsewhere."""
        self._count()
        for segment in segments:
            self.tokens[segment] -= count
        self._wait()

    def select(self, segments: Sequence[int]) -> None:
        """Segment i becomes old segment segments[i]."""
        self._count()
        self.tokens = [self.tokens[segment] for segment in segments]
        self.full = [self.full[segment] for segment in segments]
        self._wait()
