"""What keeps a step from waiting for the device: bounds of the lengths there that are known on the host."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cokv.model.device import sent as sent

NO_CAP = sys.maxsize


class Bounds:
    """How many tokens each segment has at most: it grows by one a step, up to its cap."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths, self.caps, self.steps = list(lengths), [NO_CAP] * len(lengths), 0

    @property
    def at_most(self) -> list[int]:
        """One number per segment."""
        return [min(n + self.steps, cap) for n, cap in zip(self.lengths, self.caps, strict=True)]

    def cap(self, segment: int, tokens: int) -> None:
        """This segment never has more than so many."""
        self.caps[segment] = tokens

    def appended(self) -> None:
        """One token went to every segment, of which some may have dropped one."""
        self.steps += 1

    def dropped(self, count: int) -> None:
        """Every segment has dropped its newest `count` tokens."""
        self.steps -= count

    def select(self, segments: Sequence[int]) -> None:
        self.lengths, self.caps = ([part[segment] for segment in segments] for part in (self.lengths, self.caps))
