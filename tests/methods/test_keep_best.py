"""Each head's best-scored tokens, by the obvious rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cokv.methods.keep_best import best_positions, keep_best
from cokv.types import Budgets


@pytest.mark.parametrize("counts", [[5, 5, 5], [0, 0, 0], [12, 12, 12], [0, 3, 12], [7, 1, 2]])
@pytest.mark.parametrize("kind", ["distinct", "ties", "always kept"])
def test_the_best_stay_ties_to_the_lower_position_in_ascending_order(counts: list[int], kind: str) -> None:
    scores = torch.randn(3, 12, generator=torch.Generator().manual_seed(len(kind)))
    if kind == "ties":
        scores = scores.sign()
    if kind == "always kept":
        scores[:, -4:] = torch.inf
    expected = [
        sorted(sorted(range(12), key=lambda position: (-head[position], position))[:count])
        for head, count in zip(scores.tolist(), counts, strict=True)
    ]
    assert [head.tolist() for head in best_positions(scores, counts)] == expected
    selection = keep_best([scores, scores], Budgets(np.array([counts, counts])))
    assert [selection.head(1, head).tolist() for head in range(3)] == expected
