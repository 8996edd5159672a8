"""CoKV: slots beyond the window go to heads by their sliced Shapley value, over all layers at once.

arXiv 2502.17501, section 3.2, equation 3; released in nawei1010/CoKV, adaptive_kv/monkeypatch/kv_utils.py
(set_cokv_size). With c the head scores and c_(alpha) the alpha-th smallest: z = max(c - c_(alpha), 0), and a head's
budget is

    budget = window + total_extra * z / sum(z),    total_extra = total - heads * window.

The alpha lowest heads keep their window and nothing else. If no head scores above c_(alpha), as when all scores are
equal, z is zero everywhere and the heads share total_extra equally. (The released code divides by zero there; without
exact that is an error.)

`alpha` counts heads, as in the paper, which searches {1, 5, 10, 15, 20, 30, 40} out of 256 on each task's validation
split. A fixed count does not carry over to smaller models, so by default alpha is None and `alpha_share`, 1/16 of the
heads (16 of 256, the middle of that list; 1 of 16), decides: alpha = max(1, round(alpha_share * heads)).

`normalization`: "shift" is the released z; "min_max" is the form in the paper's text, z / (max(c) - c_(alpha)). The
divisor is the same for every head and cancels in z / sum(z), so both give the same budgets.

Differs: the released code floors each share and loses the slots above the prompt's length; with exact (the default)
`integerize` keeps the total.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from cokv.methods.allocators.integerize import integerize, round_as_released
from cokv.methods.allocators.profile import head_scores
from cokv.methods.scorers.checks import require_number
from cokv.types import Budgets, CokvError, FloatArray, HeadScores

Normalization = Literal["shift", "min_max"]


@dataclass(frozen=True)
class CoKV:
    """Splits the slots beyond the window by sliced Shapley value.

    alpha: how many of the lowest heads keep only their window. alpha_share: the same as a share of all heads, used if
    alpha is None. exact: False rounds as released.
    """

    looks_at: ClassVar[Literal["layer_scores", "shape"]] = "shape"

    alpha: int | None = None
    alpha_share: float = 1 / 16
    normalization: Normalization = "shift"
    exact: bool = True

    def __post_init__(self) -> None:
        if self.alpha is not None and (
            isinstance(self.alpha, bool) or not isinstance(self.alpha, int) or self.alpha < 1
        ):
            raise CokvError(f"alpha is {self.alpha!r}, expected a positive number of heads, or None to use alpha_share")
        expected = "a share of the heads, 0 or more and below 1"
        require_number(self, "alpha_share", expected, lambda share: 0 <= share < 1)
        if self.normalization not in get_args(Normalization):
            raise CokvError(
                f"normalization is {self.normalization!r}, expected one of {', '.join(get_args(Normalization))}"
            )

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: HeadScores | None
    ) -> Budgets:
        z = self.claims(head_scores(profile, len(scores), scores[0].shape[0], "CoKV"))
        extra = total - z.size * reserved
        if z.sum() == 0:
            if not self.exact:
                raise CokvError(
                    "no head score stands above the alpha-th smallest; the released rule divides by zero there"
                )
            return integerize(np.full(z.shape, total / z.size), total, seq_len, reserved)
        raw = extra * (z / z.sum())
        if self.exact:
            return integerize(raw + reserved, total, seq_len, reserved)
        return Budgets(round_as_released(raw, seq_len - reserved, "floor").values + reserved)

    def claims(self, values: FloatArray) -> FloatArray:
        """z of every head: [num_layers, num_kv_heads], 0 for the alpha lowest."""
        alpha = self.alpha if self.alpha is not None else max(1, round(self.alpha_share * values.size))
        if alpha > values.size:
            raise CokvError(f"alpha is {alpha}, but the model has {values.size} KV heads; set alpha to at most that")
        threshold = np.sort(values, axis=None)[alpha - 1]
        z: FloatArray = np.maximum(values - threshold, 0.0)
        return z / z.max() if self.normalization == "min_max" and z.max() > 0 else z
