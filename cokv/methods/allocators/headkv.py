"""HeadKV: every head keeps a small equal share, the rest follows an offline score of each head, over all layers.

arXiv 2410.19258, "Head-Level KV Cache Allocation"; released in FYYFU/HeadKV, headkv/snapkv_utils.py
(ReasonSnapKVCluster), and for KV heads in nawei1010/CoKV, adaptive_kv/monkeypatch/kv_utils.py (set_headkv_size). With s
the scores, p = s / sum(s), B the mean budget beyond the window and n heads:

    budget = window + B - B / beta + p * (B / beta) * n

so that beta = 1 allocates everything by score, and a large beta almost nothing. The scores are those of the R
(retrieval) or the R2 (retrieval-reasoning) profile: the rule is the same. beta = 1.005 is the first value of the
authors' scripts, which try {1.005, 1.01, 1.1, 1.2, 1.5, 2, 5, 10}; their `temp` exponent is always 1 and left out here.

If all scores are 0, the heads share equally. (The released code divides by zero there; without exact that is an error.)

Differs: the released code divides by beta with floor division, rounds each head alone, and loses the slots above the
prompt's length; with exact (the default) the division is real-valued and `integerize` keeps the total. Without exact,
heads are floored as in the KV-head form; HeadKV's cache per query head rounds to the nearest whole number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from cokv.methods.allocators.integerize import integerize, round_as_released
from cokv.methods.allocators.profile import head_scores
from cokv.methods.scorers.checks import require_number
from cokv.types import Budgets, CokvError, HeadScores


@dataclass(frozen=True)
class HeadKV:
    """Splits the slots beyond the window by retrieval score.

    beta: 1 / beta of the slots beyond the window follow the scores, 1 or more. exact: False rounds as released.
    """

    looks_at: ClassVar[Literal["layer_scores", "shape"]] = "shape"

    beta: float = 1.005
    exact: bool = True

    def __post_init__(self) -> None:
        require_number(self, "beta", "1 (all by score) or more (more evenly)", lambda beta: 1 <= beta < np.inf)

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: HeadScores | None
    ) -> Budgets:
        values = head_scores(profile, len(scores), scores[0].shape[0], "HeadKV")
        if values.min() < 0:
            raise CokvError(
                f"HeadKV needs scores of 0 or more, the smallest is {values.min():.4g}; "
                "use an R or R2 profile, not Shapley values"
            )
        mean = total / values.size - reserved  # B
        if values.max() == 0:
            if not self.exact:
                raise CokvError("all head scores are 0; the released rule divides by zero there")
            return integerize(np.full(values.shape, total / values.size), total, seq_len, reserved)
        share = values / values.max()
        share = share / share.sum()
        if self.exact:
            pool = mean / self.beta
            return integerize(mean - pool + share * pool * values.size + reserved, total, seq_len, reserved)
        pool = mean // self.beta
        raw = mean - pool + share * pool * values.size
        return Budgets(round_as_released(raw, seq_len - reserved, "floor").values + reserved)
