"""FastGen while decoding: drops the stored token in the lowest tier.

FastGen, arXiv 2310.01801, algorithm 2 (no code was released). A head that dropped tokens of the prompt keeps its number
of slots. Prompt and answer tokens are ranked as the prompt was (scorers/fastgen.py): special tokens; punctuation;
frequent ones, the stored tokens with the most attention from all queries since they were read, as many as
frequent_share of all tokens read so far; local ones, the newest local_share of these; the others. Inside a tier the
least attention is dropped first, of ties the latest; inside the local tier the oldest. So a head with slots for its
special tokens only drops any other token as soon as it has been read, which is that policy's rule. A head that kept a
whole prompt longer than kv_budget has the policy of keeping everything: it grows. If the prompt is no longer than
kv_budget, every head holds up to kv_budget tokens.
If the last prompt token is run again on the compressed cache, its query counts twice.
Differs: in the paper a head keeps all that its policy selects, and grows with the answer; here it keeps its number of
slots, so that the budget holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cokv.cache.policies.protocol import GROWS, NOTHING, EvictsByAttention, FullHeads, Known, check_limit, lowest
from cokv.methods.policies.one_call import FASTGEN, drop
from cokv.methods.scorers.fastgen import FREQUENT, LOCAL, FastGenScorer, TierSums
from cokv.model.token_kinds import TokenKinds

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class FastGenEviction(EvictsByAttention):
    """Drops the token in the lowest tier.

    limit: kv_budget, slots of a head if the prompt is no longer than that. frequent_share, local_share: shares of all
    tokens read so far, 0..1.
    """

    does = "drop the token that is lowest in the tiers; heads that kept a long prompt whole grow"

    limit: int | None = None
    frequent_share: float = 0.3
    local_share: float = 0.3

    def __post_init__(self) -> None:
        check_limit(self.limit, 1, "the token that is kept")
        FastGenScorer(self.frequent_share, self.local_share)  # checks the shares

    @property
    def observers(self) -> tuple[TokenKinds, TierSums]:  # type: ignore[override]  # they follow a field
        return TokenKinds(), TierSums(self.local_share)

    def limits(self, slots: torch.Tensor, seq_len: int) -> torch.Tensor:
        if seq_len <= self.slots:
            return torch.full_like(slots, self.slots)
        return torch.where(slots == seq_len, GROWS, slots)

    def seed(self, layer: PrefillLayer) -> torch.Tensor:
        """Summed attention, and the kind of token."""
        (kinds,), (sums, _) = (layer.observation(o) for o in self.observers)
        return torch.stack([sums, kinds.to(sums.dtype).expand_as(sums)], dim=-1)

    def begun(self, kinds: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(kinds), kinds], dim=-1)

    def update(self, memory: torch.Tensor, weights: torch.Tensor, held: torch.Tensor | None, step: int) -> None:
        memory[..., 0] += weights.mean(dim=2)

    def worst(
        self, memory: torch.Tensor, positions: torch.Tensor, group_size: int, known: Known = NOTHING
    ) -> torch.Tensor:
        if int(known.read * self.frequent_share) >= positions.shape[1]:
            return _all_frequent(memory, positions, known)
        positions = positions.long()
        stored, seq_len = positions >= 0, positions.amax(1, keepdim=True) + 1
        # One number for (attention, earlier position): the bits of non-negative floats are ordered as the floats are.
        attention = memory[..., 0].contiguous().view(torch.int32).long()
        rank = ((attention << 32) - positions).masked_fill(~stored, -(1 << 62))
        frequent = (seq_len.double() * self.frequent_share).long().clamp(max=rank.shape[1])
        threshold = rank.sort(dim=1, descending=True).values.gather(1, (frequent - 1).clamp(min=0))
        tiers = memory[..., 1].long()
        tiers = torch.where((rank >= threshold) & (frequent > 0), tiers.clamp(min=FREQUENT), tiers)
        newest = positions >= seq_len - (seq_len.double() * self.local_share).long()
        tiers = torch.where(newest, tiers.clamp(min=LOCAL), tiers)
        lowest = tiers.masked_fill(~stored, torch.iinfo(torch.int64).max).amin(1, keepdim=True)
        inside = torch.where(tiers == LOCAL, positions, rank)
        return inside.masked_fill((tiers != lowest) | ~stored, torch.iinfo(torch.int64).max).argmin(1)

    def drop(self, heads: FullHeads) -> bool:
        return drop(FASTGEN, heads, (FREQUENT, LOCAL), (self.frequent_share, self.local_share))


def _all_frequent(memory: torch.Tensor, positions: torch.Tensor, known: Known) -> torch.Tensor:
    """`worst`, where so many tokens have been read that all stored ones count as frequent: no order is needed."""
    tiers = memory[..., 1].clamp(min=FREQUENT)
    if not known.even:
        tiers = tiers.masked_fill(positions < 0, torch.inf)
    return lowest(memory[..., 0], positions, tiers > tiers.amin(1, keepdim=True), known)
