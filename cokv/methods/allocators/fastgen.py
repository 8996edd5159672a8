"""FastGen: each head runs the cheapest policy that retains enough of its attention, for this prompt.

arXiv 2310.01801, algorithm 1 (no code was released). The policies of a head, cheapest first, cost slots and retain a
share of its attention (scorers/fastgen.py measures both). A head uses the first policy that retains at least T. The
paper fixes T, at 0.95, and reports its cost; under one total, T is searched: the largest threshold whose cost fits. The
slots left over go to the heads that the next threshold would move up, in proportion to the cost of that move, so that
they keep part of their next tier and the total is spent.

A total that pays only for a threshold below `least_threshold` is infeasible: most heads would then keep their special
tokens and nothing else, which is not what the paper runs. The default is half of a head's attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from cokv.methods.allocators import LooksAt
from cokv.methods.allocators.integerize import integerize
from cokv.methods.scorers.checks import require_share
from cokv.types import Budgets, FloatArray, Infeasible


@dataclass(frozen=True)
class FastGenAllocator:
    """Gives each head the slots of its cheapest policy that retains the largest threshold the total can pay for.

    least_threshold: of retained attention, 0..1; a total that pays for less only is infeasible.
    """

    looks_at: ClassVar[LooksAt] = "prompt"
    exact: ClassVar[bool] = True

    least_threshold: float = 0.5

    def __post_init__(self) -> None:
        require_share(self, "a head's attention", "least_threshold")

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: FloatArray
    ) -> Budgets:
        """profile: slots and retained share of the policies of every KV head, [num_layers, num_kv_heads, 2, 5]."""
        slots, retained = _policies(profile)
        threshold, best, following = _affordable(slots, retained, total)
        if threshold < self.least_threshold or best.sum() > total:
            needed = int(_cost(slots, retained, self.least_threshold).sum())
            raise Infeasible(
                f"the total of {total} KV slots pays for a threshold of {max(threshold, 0):.3f} of each head's "
                f"attention, expected at least {self.least_threshold:g} (the paper's is 0.95); set kv_budget to at "
                f"least {-(-needed // len(slots))} for this prompt"
            )
        step = following - best
        left = max(total - best.sum(), 0)
        raw = best + (step * (left / step.sum()) if step.sum() > 0 else 0)
        return integerize(raw.reshape(profile.shape[:2]), total, seq_len, reserved)

    def facts(self, total: int, seq_len: int, reserved: int, profile: FloatArray) -> dict[str, float]:
        """The threshold that the total pays for; 1 where it pays for every token of every head."""
        return {"threshold": min(_affordable(*_policies(profile), total)[0], 1.0)}


def _policies(profile: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slots and retained share of the policies of every head, [heads, 5] each; a dearer policy retains no less."""
    slots, retained = profile.reshape(-1, *profile.shape[2:]).transpose(1, 0, 2)
    retained = np.maximum.accumulate(retained, axis=1)
    retained[:, -1] = np.inf  # everything is always enough
    return slots, retained


def _cost(slots: FloatArray, retained: FloatArray, threshold: float) -> FloatArray:
    """Slots of each head's cheapest policy that retains the threshold: [heads]."""
    return np.asarray(np.take_along_axis(slots, (retained >= threshold).argmax(axis=1)[:, None], axis=1)[:, 0])


def _affordable(slots: FloatArray, retained: FloatArray, total: int) -> tuple[float, FloatArray, FloatArray]:
    """The largest threshold whose cost fits, each head's slots at it, and at the next: a number, [heads], [heads].

    Where nothing fits the threshold is below 0, with the slots of the cheapest policies.
    """
    threshold, best, following = -np.inf, slots[:, 0], slots[:, -1]
    for candidate in np.unique(retained):  # rising; a higher threshold never costs less
        cost = _cost(slots, retained, candidate)
        if cost.sum() > total:
            following = cost
            break
        threshold, best = float(candidate), cost
    return threshold, best, following
