"""AdaKV: inside each layer, slots go to the heads that hold the layer's best-scored tokens.

arXiv 2407.11550; released in FFY0/AdaKV, adaptive_snapkv/monkeypatch/snapkv_utils.py (AdaptiveSnapKVCluster,
gqa_support). With B the mean budget beyond the window and H KV heads: of the layer's H*B best-scored tokens outside the
window, n_h lie in head h; b_h = (1 - floor_alpha) * n_h + floor_alpha * B. Every layer spends the same total.
floor_alpha = 0.2 is what the authors' script (experiments/LongBench/GQA_eval_longbench.sh) uses where query heads share
a KV head.

Differs: the released code rounds floor_alpha * B down and each head to the nearest whole, so a layer may miss its
total by a few slots; with exact (the default) `integerize` keeps it. Ties at the cutoff go to the lower head, then the
lower position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from cokv.methods.allocators.integerize import integerize, round_as_released
from cokv.methods.scorers.checks import require_number
from cokv.model.device import read
from cokv.types import Budgets, FloatArray, HeadScores, IntArray


@dataclass(frozen=True)
class Ada:
    """Splits a layer's slots by where its best-scored tokens lie.

    floor_alpha: the share of a layer's slots beyond the window that is split equally over its heads, 0..1.
    exact: False rounds as released.
    """

    looks_at: ClassVar[Literal["layer_scores", "shape"]] = "layer_scores"

    floor_alpha: float = 0.2
    exact: bool = True

    def __post_init__(self) -> None:
        expected = "a share between 0 (all adaptive) and 1 (uniform)"
        require_number(self, "floor_alpha", expected, lambda share: 0 <= share <= 1)

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: HeadScores | None = None
    ) -> Budgets:
        num_layers, num_kv_heads = len(scores), scores[0].shape[0]
        even = np.full((1, num_layers), total / num_layers)
        layer_totals = integerize(even, total, num_kv_heads * seq_len, num_kv_heads * reserved).values[0]
        rows = [self._layer(*pair, seq_len, reserved) for pair in zip(scores, layer_totals.tolist(), strict=True)]
        return Budgets(np.stack(rows))

    def _layer(self, scores: torch.Tensor, total: int, seq_len: int, reserved: int) -> IntArray:
        """scores [num_kv_heads, seq_len] -> budgets int64 [num_kv_heads]."""
        num_kv_heads = scores.shape[0]
        shared = total - num_kv_heads * reserved
        mean = shared / num_kv_heads  # B
        counts = _best(scores, shared)
        if self.exact:
            raw = (1 - self.floor_alpha) * counts + self.floor_alpha * mean + reserved
            return integerize(raw[None], total, seq_len, reserved).values.reshape(-1)
        raw = (1 - self.floor_alpha) * counts + np.floor(self.floor_alpha * mean)
        return round_as_released(raw[None] + reserved, seq_len, "nearest").values.reshape(-1)


def _best(scores: torch.Tensor, count: int) -> FloatArray:
    """How many of the layer's `count` best-scored tokens, reserved ones excluded, lie in each head: [num_kv_heads].

    These numbers, and no positions, leave the device.
    """
    free = scores.masked_fill(scores == torch.inf, -torch.inf).reshape(-1)
    best = free.sort(descending=True, stable=True).indices[:count]
    heads = torch.zeros(scores.shape[0], dtype=torch.int64, device=scores.device)
    return np.array(read(heads.index_add_(0, best // scores.shape[1], torch.ones_like(best))), dtype=np.float64)
