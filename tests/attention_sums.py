"""Attention that tokens have had so far, added up in plain loops: what oracles of H2O and FastGen share."""

from __future__ import annotations

from typing import Any

import numpy as np


class AttentionSums:
    """scores[kv_head][position]: sums over the queries so far, means over the query heads of the group."""

    scores: list[Any]

    def add(self, weights: np.ndarray) -> None:
        group = len(weights) // len(self.scores)
        for head, row in enumerate(weights):
            for j, weight in enumerate(row):
                self.scores[head // group][j] += weight / group
