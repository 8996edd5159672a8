"""FastGen: each head runs the cheapest policy that retains enough of its attention, for this prompt.

arXiv 2310.01801, algorithm 1 (no code was released). The policies of a head, cheapest first, cost slots and retain a
share of its attention (scorers/fastgen.py measures both). A head uses the first policy that retains at least T. The
paper fixes T and reports its cost; under one total, T is searched: the largest threshold whose cost fits. The slots
left over go to the heads that the next threshold would move up, in proportion to the cost of that move, so that they
keep part of their next tier and the total is spent.

A prompt whose special tokens alone exceed the total cannot be compressed to it.
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
    """Gives each head the slots of its cheapest policy that retains the largest threshold the total can pay for."""

    looks_at: ClassVar[LooksAt] = "prompt"
    exact: ClassVar[bool] = True

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
        best, following = slots[:, 0], slots[:, -1]
        for threshold in np.unique(retained):  # rising; a higher threshold never costs less
            cost = np.take_along_axis(slots, (retained >= threshold).argmax(axis=1)[:, None], axis=1)[:, 0]
            if cost.sum() > total:
                following = cost
                break
            best = cost
        step = following - best
        left = max(total - best.sum(), 0)
        raw = best + (step * (left / step.sum()) if step.sum() > 0 else 0)
        return integerize(raw.reshape(heads), total, seq_len, reserved)
