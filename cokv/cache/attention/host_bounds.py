"""What keeps a step from waiting for the device: bounds of the lengths there that are known on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.model.device import sent as sent

STEPS = 32  # lengths are read back from the device after so many steps in which some segments may not have grown


class Bounds:
    """How many tokens each segment has at most."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths, self.steps, self.uncertain = list(lengths), 0, 0

    @property
    def at_most(self) -> list[int]:
        """One number per segment."""
        return [n + self.steps for n in self.lengths]

    def appended(self, lengths: torch.Tensor, all_grow: bool) -> None:
        """One token went to every segment, of which some may have dropped one: int64 [segments], what they have now."""
        self.steps += 1
        self.uncertain += not all_grow
        if self.uncertain == STEPS:
            self.lengths, self.steps, self.uncertain = lengths.tolist(), 0, 0

    def dropped(self, count: int) -> None:
        """Every segment has dropped its newest `count` tokens."""
        self.steps -= count

    def select(self, segments: Sequence[int]) -> None:
        self.lengths = [self.lengths[segment] for segment in segments]
