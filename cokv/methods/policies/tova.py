"""TOVA while decoding: drops the token that the newest query attends to least, the same in every head of a layer.

TOVA, arXiv 2401.06104; released in schwartz-lab-NLP/TOVA, src/tova_cache.py. When the heads hold one token more than
the limit, the token with the lowest attention of the last query is dropped, averaged over all query heads of the layer;
that may be the new token. Steps share no state. All heads of a layer must hold the same positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.cache.policies.protocol import NOTHING, EvictsByAttention, FullHeads, Known, check_limit, lowest
from cokv.methods.policies.one_call import TOVA, drop
from cokv.methods.scorers.checks import require_odd_kernel
from cokv.methods.scorers.pooling import pool_by_position

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class TOVAEviction(EvictsByAttention):
    """Drops the token that the newest query attends to least.

    limit: slots of a head. kernel_size: stored neighbours by position that attention is pooled over, odd; 1 for no
    pooling, as in the paper.
    """

    same_in_all_heads: ClassVar[bool] = True

    does = "drop the token that the newest query attends to least"

    limit: int | None = None
    kernel_size: int = 1

    def __post_init__(self) -> None:
        check_limit(self.limit, 1, "the token that is kept")
        require_odd_kernel(self.kernel_size)

    def seed(self, layer: PrefillLayer) -> torch.Tensor:
        return torch.zeros(*layer.keys.shape[:2], 1, device=layer.keys.device)

    def update(self, memory: torch.Tensor, weights: torch.Tensor, held: torch.Tensor | None, step: int) -> None:
        memory[..., 0] = weights.flatten(1, 2).mean(dim=1, keepdim=True)

    def worst(
        self, memory: torch.Tensor, positions: torch.Tensor, group_size: int, known: Known = NOTHING
    ) -> torch.Tensor:
        return lowest(pool_by_position(memory[..., 0], positions, self.kernel_size), positions, None, known)

    def drop(self, heads: FullHeads) -> bool:
        return self.kernel_size == 1 and drop(TOVA, heads)
