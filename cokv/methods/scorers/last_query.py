"""Last-query attention: the tokens that the newest query attends to stay, the same in every head of a layer.

TOVA, arXiv 2401.06104; released in schwartz-lab-NLP/TOVA, src/tova_cache.py. Score: softmax attention of the last
prompt query over all keys, its own included, averaged over all query heads of the layer.

keep_last = True always keeps the newest token, as some re-implementations do; the paper's rule may drop it. The paper
repeats the rule at every decoded token, see policies/tova.py. kernel_size above 1 pools the attention along the prompt,
as SnapKV does: an ablation of this project's, in no paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.methods.scorers.causal import window_attention
from cokv.methods.scorers.checks import require_odd_kernel, require_whole
from cokv.methods.scorers.pooling import pool

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class LastQuery:
    """Attention of the last prompt query, mean over all heads of the layer.

    keep_last: the newest token always stays. kernel_size: tokens pooled over, odd; 1 for no pooling.
    """

    reads: ClassVar[str] = "attention of the last prompt query"

    keep_last: bool = False
    kernel_size: int = 1

    def __post_init__(self) -> None:
        require_whole(self, kernel_size=1)
        require_odd_kernel(self.kernel_size)

    @property
    def window_size(self) -> int:
        return 1

    def reserved(self, seq_len: int) -> int:
        return int(self.keep_last)

    def check_budget(self, kv_budget: int) -> None:
        """Any budget is valid."""

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        weights = torch.cat([part.flatten(0, 2) for part in window_attention(layer, 1)])  # [num_heads, seq_len]
        scores = pool(weights.mean(dim=0, keepdim=True), self.kernel_size).repeat(layer.keys.shape[0], 1)
        if self.keep_last:
            scores[:, -1] = torch.inf
        return scores
