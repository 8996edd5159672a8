"""CAKE: layers whose attention is widely spread and shifts get more slots, the same for all heads of a layer.

arXiv 2503.12491; released code as preserved in qtris123/cakekv, cake/cake_cache.py (CakeprefillKVCache). With H the
entropy and V the variance of a layer's window attention, summed over its heads (measured by scorers/cake.py), the
layer's preference is P = H^(1/tau1) * V^(1/tau2), and it gets the share P / sum P of all slots beyond the windows. The
authors search tau1 and tau2 per model and budget; both default to 1 here.

Differs: the released code floors, caps and gives the remainder to the layers one by one; here `integerize` keeps the
total by largest remainder. The released cascade, which shrinks layers while the prompt is read to bound peak memory,
ends in the same budgets and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from cokv.methods.allocators import LooksAt
from cokv.methods.allocators.integerize import integerize
from cokv.methods.scorers.checks import require_number
from cokv.types import Budgets, FloatArray


@dataclass(frozen=True)
class CakeAllocator:
    """Splits the total over layers by the entropy and the variance of their window attention.

    tau1, tau2: temperatures of entropy and variance, above 0; the larger, the more even the split.
    """

    looks_at: ClassVar[LooksAt] = "prompt"
    exact: ClassVar[bool] = True

    tau1: float = 1.0
    tau2: float = 1.0

    def __post_init__(self) -> None:
        for name in ("tau1", "tau2"):
            require_number(self, name, "a number above 0", lambda tau: tau > 0)

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: FloatArray
    ) -> Budgets:
        """profile: entropy and variance of every KV head, [num_layers, num_kv_heads, 2]."""
        num_layers, num_kv_heads = len(scores), scores[0].shape[0]
        shares = self.shares(profile)
        extra = total - num_layers * num_kv_heads * reserved
        per_head = reserved + extra * shares / num_kv_heads  # [num_layers]
        return integerize(np.repeat(per_head[:, None], num_kv_heads, axis=1), total, seq_len, reserved)

    def shares(self, profile: FloatArray) -> FloatArray:
        """Each layer's share of the slots beyond the windows, [num_layers]; equal if all preferences are 0."""
        entropy, variance = np.asarray(profile, dtype=np.float64).sum(axis=1).T
        with np.errstate(divide="ignore"):  # log 0 is -inf: preference 0
            logs = np.log(entropy) / self.tau1 + np.log(variance) / self.tau2
        if not np.isfinite(logs).any():
            return np.full(len(logs), 1 / len(logs))
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum(), dtype=np.float64)
