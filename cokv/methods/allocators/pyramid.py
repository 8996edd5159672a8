"""PyramidKV: many slots in the lower layers, few in the upper ones, the same for all heads of a layer.

arXiv 2406.02069; released in Zefan-Cai/KVCache-Factory, pyramidkv/pyramidkv_utils.py (PyramidKVCluster, beta = 20).
With B the mean budget beyond the window: the top layer gets min = B // beta, the bottom layer max = 2B - min, and the
layers between are interpolated linearly, so that the mean is B. If max exceeds the prompt, max = N - window and
min = 2B - max. A prompt shorter than 2B tokens, at budgets of about half of it and more, gets B in every layer.

Differs: the released step is a floor division, (max - min) // (L - 1), so the line ends above min and overspends the
total; with exact (the default) the line is real-valued and `integerize` keeps the total.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from cokv.methods.allocators.integerize import integerize, round_as_released
from cokv.types import Budgets, CokvError, HeadScores


@dataclass(frozen=True)
class Pyramid:
    """Slots fall linearly from the bottom layer to the top.

    beta: beyond the window the top layer gets 1 / beta of the mean. exact: False rounds as released.
    """

    looks_at: ClassVar[Literal["layer_scores", "shape"]] = "shape"

    beta: int = 20
    exact: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.beta, bool) or not isinstance(self.beta, int) or self.beta < 1:
            raise CokvError(
                f"beta is {self.beta!r}, expected a positive whole number (the top layer gets 1/beta of the mean)"
            )

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: HeadScores | None = None
    ) -> Budgets:
        num_layers, num_kv_heads = len(scores), scores[0].shape[0]
        mean = total / (num_layers * num_kv_heads) - reserved  # B
        low = mean // self.beta
        high = min(2 * mean - low, seq_len - reserved)
        low = 2 * mean - high
        even = seq_len < 2 * mean
        if self.exact:
            layers = np.full(num_layers, mean) if even or num_layers == 1 else np.linspace(high, low, num_layers)
            return integerize(_per_head(layers + reserved, num_kv_heads), total, seq_len, reserved)
        if num_layers == 1:
            raise CokvError(
                "PyramidKV's released schedule divides by num_layers - 1; use preset 'normalized' on one layer"
            )
        if even:
            layers = np.full(num_layers, mean)
        else:
            layers = high - np.arange(num_layers) * ((high - low) // (num_layers - 1))
        return round_as_released(_per_head(layers + reserved, num_kv_heads), seq_len, "floor")


def _per_head(layers: np.ndarray, num_kv_heads: int) -> np.ndarray:
    """[num_layers] -> [num_layers, num_kv_heads]"""
    return np.repeat(layers[:, None], num_kv_heads, axis=1)
