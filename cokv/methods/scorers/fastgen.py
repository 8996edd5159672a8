"""FastGen's tiers of tokens; its allocator chooses per head and prompt how many tiers to keep.

FastGen, arXiv 2310.01801 (no code was released). Five nested policies, cheapest first: special tokens;
plus punctuation; plus frequent ones, the frequent_share of the prompt with the highest attention summed over all
queries; plus local ones, the newest local_share of the prompt; everything. Tokens are ranked tier by tier, inside a
tier by summed attention, in the local tier by age, so that a policy is a number of slots.

`measure` gives the slots of each policy in a KV head and the attention it retains there: the mean over all queries of
the attention to the tokens that the policy keeps. The local policy keeps, for each query, that query's own newest
tokens. Attention is the mean over the query heads that share the KV head.
Differs: the paper compares attention maps by the distance of the whole map; the share of retained attention is that
distance's complement for maps of which the rest is dropped and not renormalized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from cokv.methods.scorers.causal import view_attention
from cokv.methods.scorers.checks import require_share
from cokv.model.token_kinds import PUNCTUATION, SPECIAL, TokenKinds
from cokv.types import FloatArray

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer
    from cokv.model.observe import LayerView, Observation

FREQUENT, LOCAL = 2, 1  # tiers, below those of token_kinds.py: the rounded-up part of a token's score


@dataclass(frozen=True)
class TierSums:
    """Observer: attention to a token, summed over all queries, and summed over those that have it among their newest
    local_share of the prompt, mean over the group: [num_kv_heads, seq_len] each.
    """

    local_share: float

    def observe(self, view: LayerView) -> Observation:
        sums, local = (torch.zeros(view.keys.shape[:2], device=view.keys.device) for _ in range(2))
        width = int(self.local_share * sums.shape[1])
        for head, row, weights in view_attention(view):
            rows, columns = weights.shape[1:]
            start = max(row - width + 1, 0)  # first local token of the block's first query
            old = torch.ones(rows, columns - start, dtype=torch.bool, device=weights.device).tril(row - width - start)
            sums[head, :columns] += weights.sum(dim=1).mean(dim=0)
            local[head, start:columns] += weights[..., start:].masked_fill_(old, 0.0).sum(dim=1).mean(dim=0)
        return sums, local


@dataclass(frozen=True)
class FastGenScorer:
    """Tokens by tier: special, punctuation, frequent, local, all others.

    frequent_share, local_share: shares of the prompt's tokens with the most attention and of the newest, 0..1.
    """

    reads: ClassVar[str] = "attention of all prompt queries, the tokenizer"

    frequent_share: float = 0.3
    local_share: float = 0.3

    def __post_init__(self) -> None:
        require_share(self, "the prompt", "frequent_share", "local_share")

    @property
    def window_size(self) -> int:
        return 0

    @property
    def observers(self) -> tuple[TokenKinds, TierSums]:
        return TokenKinds(), TierSums(self.local_share)

    def reserved(self, seq_len: int) -> int:
        return 0

    def check_budget(self, kv_budget: int) -> None:
        """The least budget depends on the prompt's special tokens: the allocator checks it."""

    def tiers(self, layer: PrefillLayer) -> torch.Tensor:
        """Each token's highest tier, 4 (special) to 0: [num_kv_heads, seq_len]."""
        (kinds,), (sums, _) = (layer.observation(o) for o in self.observers)
        seq_len = kinds.shape[0]
        tiers = kinds.expand(sums.shape).clone()
        frequent = sums.sort(dim=-1, descending=True, stable=True).indices[:, : int(self.frequent_share * seq_len)]
        tiers.scatter_reduce_(-1, frequent, torch.full_like(frequent, FREQUENT), "amax")
        newest = tiers[:, seq_len - int(self.local_share * seq_len) :]
        newest.clamp_(min=LOCAL)
        return tiers

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        sums, _ = layer.observation(TierSums(self.local_share))
        seq_len = sums.shape[1]
        tiers = self.tiers(layer)
        age = torch.arange(seq_len, 0, -1, device=sums.device).expand_as(sums)
        by_attention = sums.sort(dim=-1, descending=True, stable=True).indices.argsort(dim=-1)  # 0 is the best
        inside = torch.where(tiers == LOCAL, age - 1, by_attention)
        return tiers - inside / seq_len

    def measure(self, layer: PrefillLayer) -> FloatArray:
        """Slots and retained share of each policy: [num_kv_heads, 2, 5]."""
        sums, local = layer.observation(TierSums(self.local_share))
        tiers = self.tiers(layer)
        seq_len = tiers.shape[1]
        slots, retained = [], []
        for lowest in (SPECIAL, PUNCTUATION, FREQUENT, LOCAL, 0):
            kept = tiers >= lowest
            kept_sums = torch.where(kept, sums, local if lowest <= LOCAL else torch.zeros_like(local))
            slots.append(kept.sum(-1).double())
            retained.append(kept_sums.double().sum(-1) / seq_len)
        both = torch.stack([torch.stack(slots, -1), torch.stack(retained, -1)], dim=1)
        return np.asarray(both.cpu().numpy(), dtype=np.float64)
