"""FastGenAllocator: each head runs the cheapest policy that retains enough of its attention, for this prompt.

arXiv 2310.01801, algorithm 1 (no code was released). The policies of a head, cheapest first, cost slots
and retain a share of its attention (scorers/token_tiers.py measures both). A head takes the first policy that retains
at least T. The paper fixes T and reports what it costs; under one total, T is searched: the largest threshold whose
cost fits. What is left then goes to the heads that the next threshold would move up, in proportion to what the move
costs them, so that they keep part of their next tier and the total is spent.

A prompt whose special tokens alone pass the total cannot be compressed to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from cokv.methods.allocators import LooksAt
from cokv.methods.allocators.integerize import integerize
from cokv.types import Budgets, FloatArray, Infeasible


@dataclass(frozen=True)
class FastGenAllocator:
    """Slots of the cheapest policy of each head that retains as much attention as the total pays for."""

    looks_at: ClassVar[LooksAt] = "prompt"

    @property
    def exact(self) -> bool:
        return True

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: FloatArray
    ) -> Budgets:
        """profile: slots and retained share of the policies of every KV head, [num_layers, num_kv_heads, 2, 5]."""
        heads = profile.shape[:2]
        slots, retained = profile.reshape(-1, *profile.shape[2:]).transpose(1, 0, 2)  # [heads, 5] each
        retained = np.maximum.accumulate(retained, axis=1)
        retained[:, -1] = np.inf  # everything is always enough
        if slots[:, 0].sum() > total:
            raise Infeasible(
                f"special tokens alone need {int(slots[:, 0].sum())} KV slots over all heads, the total is {total}; "
                f"set kv_budget to at least {-(-int(slots[:, 0].sum()) // len(slots))}"
            )
        now, following = slots[:, 0], slots[:, -1]
        for threshold in np.unique(retained):  # rising; a higher one never costs less
            chosen = np.take_along_axis(slots, (retained >= threshold).argmax(axis=1)[:, None], axis=1)[:, 0]
            if chosen.sum() > total:
                following = chosen
                break
            now = chosen
        move = following - now
        left = max(total - now.sum(), 0)
        raw = now + (move * (left / move.sum()) if move.sum() > 0 else 0)
        return integerize(raw.reshape(heads), total, seq_len, reserved)
