"""Attention that is high or shifts: mean plus gamma times variance over the window's queries.

CAKE, arXiv 2503.12491; released code as preserved in qtris123/cakekv, cake/model/modify_llama.py. For the last
w = window_size queries: softmax attention over all keys; per query head and token the mean over the w queries plus
gamma times their variance (unbiased); the window's own columns dropped; average-pooled along the prompt; mean over the
query heads that share the KV head. The window itself stays.

`measure` gives CAKE's allocator two numbers per KV head, over the columns before the window: the entropy -sum a log a
of the attention (how spread it is), and the sum of the variances above (how much it shifts).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from cokv.methods.scorers.causal import window_attention
from cokv.methods.scorers.checks import require_number, require_odd_kernel, require_whole
from cokv.methods.scorers.window import Windowed
from cokv.types import FloatArray

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class CakeScorer(Windowed):
    """Mean plus variance of the window's attention.

    window_size: last prompt tokens, whose queries count and which stay. kernel_size: tokens pooled over, odd. gamma:
    weight of the variance.
    """

    reads: ClassVar[str] = "attention of the last window_size prompt queries"

    window_size: int = 32
    kernel_size: int = 5
    gamma: float = 200.0

    def __post_init__(self) -> None:
        require_whole(self, window_size=2, kernel_size=1)
        require_odd_kernel(self.kernel_size)
        require_number(self, "gamma", "a number, 0 or more", lambda gamma: gamma >= 0)

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        num_kv_heads, seq_len = layer.keys.shape[:2]
        scores = torch.full((num_kv_heads, seq_len), torch.inf, device=layer.keys.device)
        columns = seq_len - self.reserved(seq_len)
        if columns == 0:
            return scores
        raw = [
            weights.mean(dim=2) + self.gamma * weights.var(dim=2)
            for weights in (part[..., :columns] for part in window_attention(layer, self.window_size))
        ]
        pooled = F.avg_pool1d(torch.cat(raw), self.kernel_size, stride=1, padding=self.kernel_size // 2)
        scores[:, :columns] = pooled.mean(dim=1)
        return scores

    def measure(self, layer: PrefillLayer) -> FloatArray:
        """Entropy and variance: [num_kv_heads, 2]."""
        columns = layer.keys.shape[1] - self.reserved(layer.keys.shape[1])
        rows = []
        for part in window_attention(layer, self.window_size):
            weights = part[..., :columns]
            entropy = -torch.special.xlogy(weights, weights)
            rows.append(torch.stack([entropy.sum(dim=(1, 2, 3)), weights.var(dim=2).sum(dim=(1, 2))], dim=-1))
        return np.asarray(torch.cat(rows).double().cpu().numpy(), dtype=np.float64)
