"""HeadKV: every head keeps a small equal share, the rest follows an offline score of each head, over all layers.

arXiv 2410.19258, "Head-Level KV Cache Allocation"; released in FYYFU/HeadKV, headkv/snapkv_utils.py
(ReasonSnapKVCluster), and for KV heads in nawei1010/CoKV, adaptive_kv/monkeypatch/kv_utils.py (set_headkv_size). With s
the scores, p = s / sum(s), B the mean budget beyond the window and n heads:

    budget = window + B - B / beta + p * (B / beta) * n

so that beta = 1 allocates everything by score, and a large beta almost nothing. The scores are those of the R
(retrieval) or the R2 (retrieval-reasoning) profile: the rule is the same. beta = 1.5 is the authors' default
(run_babilong.py, --beta); their scripts try {1.005, 1.01, 1.1, 1.2, 1.5, 2, 5, 10}. Their `temp` exponent is always 1
and left out here.

Scores that are all 0 are an error, as in the released code, which divides by their sum.

Differs: the released code divides by beta with floor division, rounds each head alone, and loses the slots above the
prompt's length. With exact (the default) the division is real-valued, `integerize` rounds, and the slots that a head
cannot take, because it holds the whole prompt, go to the other heads in proportion to their scores; once every head
with a score holds the prompt, what is left is shared equally. Without exact, heads are floored as in the KV-head form;
HeadKV's cache per query head rounds to the nearest whole number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from cokv.methods.allocators.integerize import fill, integerize, round_as_released
from cokv.methods.allocators.profile import head_scores
from cokv.methods.scorers.checks import require_number
from cokv.types import Budgets, CokvError, HeadScores


@dataclass(frozen=True)
class HeadKV:
    """Splits the slots beyond the window by retrieval score.

    beta: 1 / beta of the slots beyond the window follow the scores, 1 or more. exact: False rounds as released.
    """

    looks_at: ClassVar[Literal["layer_scores", "shape"]] = "shape"

    beta: float = 1.5
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
        total = min(total, values.size * seq_len)
        mean = total / values.size - reserved  # B
        if values.max() == 0:
            raise CokvError("all head scores are 0, and HeadKV divides by their sum; use another profile")
        share = values / values.max()
        share = share / share.sum()
        if self.exact:
            each = reserved + mean - mean / self.beta
            by_score = fill(share.reshape(-1), (total - each * values.size), seq_len - each).reshape(values.shape)
            return integerize(each + by_score, total, seq_len, reserved)
        pool = mean // self.beta
        raw = mean - pool + share * pool * values.size
        return Budgets(round_as_released(raw, seq_len - reserved, "floor").values + reserved)
