"""H2O while decoding: keeps the newest tokens in half of a head's slots, and those with the most attention so far.

H2O, arXiv 2306.14048; released in FMInference/H2O, h2o_hf/utils_real_drop/modify_llama.py (H2OKVCache_LayerWise). A
token's score is its attention summed over all queries since it was read, prompt and answer; each step adds to it. When
a head holds one token more than its limit, the token with the lowest score outside the newest share is dropped.
If the last prompt token is run again on the compressed cache, its query counts twice.
Differs: scores are means over the query heads that share a KV head; the released code has a cache per query head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.cache.policies.protocol import NOTHING, EvictsByAttention, FullHeads, Known, check_limit, lowest, newest
from cokv.methods.policies.one_call import H2O, drop
from cokv.methods.scorers.accumulated_attention import AttentionSum
from cokv.methods.scorers.checks import part_of, require_odd_kernel, require_share
from cokv.methods.scorers.pooling import pool_by_position

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class H2OEviction(EvictsByAttention):
    """Drops the token with the least attention so far, never one of the newest.

    limit: slots of a head. recent_share: share of these for the newest tokens, 0..1. kernel_size: stored neighbours by
    position that sums are pooled over, odd; 1 for no pooling, as in the paper.
    """

    observers: ClassVar[tuple[AttentionSum, ...]] = (AttentionSum(),)

    does = "drop the token with the least attention so far, never the newest share"

    limit: int | None = None
    recent_share: float = 0.5
    kernel_size: int = 1

    def __post_init__(self) -> None:
        check_limit(self.limit, 2, "to be shared by old and new tokens")
        require_share(self, "the limit", "recent_share")
        require_odd_kernel(self.kernel_size)

    def seed(self, layer: PrefillLayer) -> torch.Tensor:
        return layer.observation(AttentionSum())[0][..., None]

    def update(self, memory: torch.Tensor, weights: torch.Tensor, held: torch.Tensor | None, step: int) -> None:
        memory[..., 0] += weights.mean(dim=2)

    def worst(
        self, memory: torch.Tensor, positions: torch.Tensor, group_size: int, known: Known = NOTHING
    ) -> torch.Tensor:
        pooled = pool_by_position(memory[..., 0], positions, self.kernel_size)
        return lowest(pooled, positions, newest(positions, part_of(self.slots, self.recent_share), known), known)

    def drop(self, heads: FullHeads) -> bool:
        recent = part_of(self.slots, self.recent_share)
        return self.kernel_size == 1 and recent <= heads.known.consecutive and drop(H2O, heads, (recent,))
