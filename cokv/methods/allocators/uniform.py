"""The same number of slots for every KV head (StreamingLLM, SnapKV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from cokv.methods.allocators.integerize import integerize
from cokv.types import Budgets, HeadScores


@dataclass(frozen=True)
class Uniform:
    """The same number of slots for every head; the first heads get one more if there is a remainder."""

    looks_at: ClassVar[Literal["layer_scores", "shape"]] = "shape"
    exact: ClassVar[bool] = True

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: HeadScores | None = None
    ) -> Budgets:
        shape = (len(scores), scores[0].shape[0])
        return integerize(np.full(shape, total / (shape[0] * shape[1])), total, seq_len, reserved)
