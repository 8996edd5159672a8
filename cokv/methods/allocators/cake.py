"""CAKE: layers whose attention is spread wide and shifts get more slots, the same for all heads of a layer.

arXiv 2503.12491; its released code is read here as kept in qtris123/cakekv, cake/cake_cache.py
(CakeprefillKVCache). With H the entropy and V the variance of a layer's window attention, summed over its heads (the
scorer measures them, see scorers/shifting_attention.py), the layer's preference is P = H^(1/tau1) * V^(1/tau2), and it
gets the share P / sum P of all slots beyond the windows. tau1 and tau2 are searched per model and budget by the
authors; both are 1 here unless set.

Differs: the released code floors, caps and hands the remainder to the layers one by one; `integerize` keeps the total
here by largest remainder. Its cascade, which shrinks layers while the prompt is read to bound the peak, ends in the
same budgets and is not needed to compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from cokv.methods.allocators import LooksAt
from cokv.methods.allocators.integerize import integerize
from cokv.types import Budgets, CokvError, FloatArray


@dataclass(frozen=True)
class CakeAllocator:
    """Slots of a layer by the entropy and the variance of its window attention.

    tau1, tau2: temperatures of entropy and variance, above 0; the larger, the less they tell layers apart.
    """

    looks_at: ClassVar[LooksAt] = "prompt"

    tau1: float = 1.0
    tau2: float = 1.0

    def __post_init__(self) -> None:
        for name in ("tau1", "tau2"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise CokvError(f"{name} is {value!r}, expected a number above 0")

    @property
    def exact(self) -> bool:
        return True

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: FloatArray
    ) -> Budgets:
        """profile: entropy and variance of every KV head, [num_layers, num_kv_heads, 2]."""
        num_layers, num_kv_heads = len(scores), scores[0].shape[0]
        shares = self.shares(profile)
        extra = total - num_layers * num_kv_heads * reserved
        rows = reserved + extra * shares / num_kv_heads
        return integerize(np.repeat(rows[:, None], num_kv_heads, axis=1), total, seq_len, reserved)

    def shares(self, profile: FloatArray) -> FloatArray:
        """Of the slots beyond the windows: [num_layers], summing to 1; even where no layer has a preference."""
        entropy, variance = np.asarray(profile, dtype=np.float64).sum(axis=1).T
        with np.errstate(divide="ignore"):  # log 0 is -inf: no preference at all
            logs = np.log(entropy) / self.tau1 + np.log(variance) / self.tau2
        if not np.isfinite(logs).any():
            return np.full(len(logs), 1 / len(logs))
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum(), dtype=np.float64)
