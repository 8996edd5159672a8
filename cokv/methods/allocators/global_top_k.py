"""The best-scored tokens of the whole model stay: every head gets as many slots as it has of them.

KVzip's "pair level", arXiv 2505.23416; released in snu-mllab/KVzip, attention/score.py (_threshold). Scores of
different heads and layers are compared directly, so it suits scorers with the same scale in every head.
Differs: the released threshold drops every token that ties with the first one below it; here ties go to the lower
layer, head and position, and the total is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from cokv.methods.allocators import LooksAt
from cokv.methods.allocators.integerize import integerize
from cokv.types import Budgets, HeadScores


@dataclass(frozen=True)
class GlobalTopK:
    """Splits the total by where the best-scored tokens of the whole model lie."""

    looks_at: ClassVar[LooksAt] = "all_scores"
    exact: ClassVar[bool] = True

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: HeadScores | None = None
    ) -> Budgets:
        shape = (len(scores), scores[0].shape[0])
        together = [layer.to(scores[0].device) for layer in scores]  # layers may lie on several devices
        free = torch.stack([layer.masked_fill(layer == torch.inf, -torch.inf) for layer in together]).reshape(-1)
        best = free.sort(descending=True, stable=True).indices[: max(total - shape[0] * shape[1] * reserved, 0)]
        counts = np.bincount(best.cpu().numpy() // seq_len, minlength=shape[0] * shape[1]).astype(np.float64)
        return integerize(counts.reshape(shape) + reserved, total, seq_len, reserved)
