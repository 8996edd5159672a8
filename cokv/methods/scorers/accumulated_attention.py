"""Accumulated attention: the tokens with the most attention from all prompt queries, and the newest ones.

H2O, arXiv 2306.14048; released in FMInference/H2O, h2o_hf/utils_real_drop/modify_llama.py (H2OKVCache_LayerWise).
Score: the sum of softmax attention over all queries, mean over the query heads that share the KV head. Of a head's
slots, recent_share (half, as in the authors' experiments) go to the newest tokens, the others to the best-scored of the
rest.

kernel_size above 1 pools the sums along the prompt, as SnapKV does: an ablation of this project's, in no paper.

Only for the prompt; while decoding the released code continues to sum and evict, see policies/h2o.py. Queries are
summed in blocks; the result is one number per token and KV head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.methods.scorers.causal import view_attention
from cokv.methods.scorers.checks import part_of, require_odd_kernel, require_share, require_whole
from cokv.methods.scorers.pooling import pool
from cokv.methods.scorers.window import Windowless
from cokv.model.device import sent
from cokv.types import Infeasible

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer
    from cokv.model.observe import LayerView, Observation


@dataclass(frozen=True)
class AttentionSum:
    """Observer: attention to each token, summed over all queries, mean over the group: [num_kv_heads, seq_len]."""

    def observe(self, view: LayerView) -> Observation:
        sums = torch.zeros(view.keys.shape[:2], device=view.keys.device)
        for head, _, weights in view_attention(view):
            sums[head, : weights.shape[-1]] += weights.sum(dim=1).mean(dim=0)
        return (sums,)

    def add(self, before: Observation, more: Observation) -> Observation:
        """Of the first queries of a prompt, and of those after them."""
        ((first,), (sums,)) = before, more
        sums[:, : first.shape[1]] += first
        return (sums,)


@dataclass(frozen=True)
class AccumulatedAttention(Windowless):
    """Attention summed over all prompt queries, and the newest tokens.

    recent_share: share of each head's slots for the newest tokens, 0..1. kernel_size: tokens pooled over, odd; 1 for no
    pooling.
    """

    reads: ClassVar[str] = "attention of all prompt queries"

    recent_share: float = 0.5
    kernel_size: int = 1

    def __post_init__(self) -> None:
        require_share(self, "the budget", "recent_share")
        require_whole(self, kernel_size=1)
        require_odd_kernel(self.kernel_size)

    @property
    def observers(self) -> tuple[AttentionSum]:
        return (AttentionSum(),)

    def check_budget(self, kv_budget: int) -> None:
        if kv_budget < 2:
            raise Infeasible(f"kv_budget {kv_budget} cannot be shared by old and new tokens; set it to at least 2")

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        return pool(layer.observation(AttentionSum())[0], self.kernel_size)

    def refine(self, layer: PrefillLayer, scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The newest floor(recent_share * slots) tokens of each head must stay."""
        newest = sent(torch.tensor([part_of(slots, self.recent_share) for slots in counts.tolist()]), scores.device)
        age = torch.arange(scores.shape[1], device=scores.device).flip(0)  # 0 for the newest
        return scores.masked_fill(age < newest[:, None], torch.inf)
