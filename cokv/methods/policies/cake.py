"""CAKE while decoding: drops the token outside the newest window that the last query attends to least, after pooling.

CAKE, arXiv 2503.12491; released code as preserved in qtris123/cakekv, cake/cake_cache.py
(CakeDecodingKVCache_LayerWise) and cake/model/modify_llama.py. A head keeps its number of slots, or kv_budget slots if
the prompt is no longer than that. At each step the newest `window_size` tokens stay. The others are scored by the
attention of the new query alone, average-pooled over kernel_size neighbours, mean over the query heads that share the
KV head; the lowest is dropped, of ties the last. Mean and variance over a window of queries (scorers/cake.py) rank the
prompt only.

Neighbours are those in the released cache, which is sorted by its last ranking: first by the prompt's scores, later by
each step's pooled scores, best first, followed by the token that has just left the window. A prompt that was kept whole
is in its original order until the first token is dropped.

Differs: attention is in float32, not the model's dtype; the slots of a layer's heads may differ by one, so that the
total is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from cokv.cache.policies.protocol import NOTHING, EvictsByAttention, FullHeads, Known, check_limit, newest
from cokv.methods.policies.one_call import CAKE, drop
from cokv.methods.scorers.cake import CakeScorer
from cokv.types import CokvError

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer

LAST = 1 << 62


@dataclass(frozen=True)
class CakeEviction(EvictsByAttention):
    """Drops the token with the lowest pooled attention of the last query.

    limit: kv_budget, slots of a head if the prompt is no longer than that. window_size: newest tokens that stay.
    kernel_size: tokens pooled over, odd. gamma: weight of the variance in the prompt's ranking.
    """

    does = "drop the token that the newest query attends to least, pooled, never the newest window"

    limit: int | None = None
    window_size: int = 32
    kernel_size: int = 5
    gamma: float = 200.0

    def __post_init__(self) -> None:
        self._scorer()
        check_limit(self.limit, self.window_size + 1, f"one beside the {self.window_size} newest")

    def _scorer(self) -> CakeScorer:
        return CakeScorer(self.window_size, self.kernel_size, self.gamma)

    @property
    def num_queries(self) -> int:
        """The window, and one more for a prompt whose last token is run again."""
        return self.window_size + 1

    def limits(self, slots: torch.Tensor, seq_len: int) -> torch.Tensor:
        if seq_len <= self.slots:
            return torch.full_like(slots, self.slots)
        if int(slots.min()) < self.window_size:
            raise CokvError(
                f"a selection holds {int(slots.min())} tokens in a head, fewer than the window of {self.window_size} "
                f"that always stays; select at least {self.window_size} per head"
            )
        return slots

    def seed(self, layer: PrefillLayer) -> torch.Tensor:
        """Attention of the last query, and the rank in the last ranking, from 1; 0 before the first."""
        heads, seq_len, _ = layer.keys.shape
        memory = torch.zeros(heads, seq_len, 2, device=layer.keys.device)
        if seq_len + layer.unread > self.slots:
            ranked = seq_len - min(self.window_size, seq_len)
            order = self._scorer().scores(layer)[:, :ranked].sort(dim=1, descending=True, stable=True).indices
            memory[:, :ranked, 1] = order.argsort(dim=1).float() + 1
        return memory

    def update(self, memory: torch.Tensor, weights: torch.Tensor, held: torch.Tensor | None, step: int) -> None:
        memory[..., 0] = weights.mean(dim=2)

    def worst(
        self, memory: torch.Tensor, positions: torch.Tensor, group_size: int, known: Known = NOTHING
    ) -> torch.Tensor:
        if known.even and known.drops and known.consecutive >= self.window_size:
            return self._next_ranking(memory, positions, known)
        old = ~newest(positions, self.window_size) & (positions >= 0)
        ranks, count = memory[..., 1].long(), old.sum(1, keepdim=True)
        order = torch.where(ranks > 0, ranks, (1 << 32) + positions.long()).masked_fill(~old, LAST).argsort(dim=1)
        inside = torch.arange(order.shape[1], device=order.device) < count
        attention = memory[..., 0].gather(1, order).masked_fill(~inside, 0.0)
        pooled = F.avg_pool1d(attention[:, None], self.kernel_size, stride=1, padding=self.kernel_size // 2)[:, 0]
        ranking = pooled.masked_fill(~inside, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        ranked = order.gather(1, ranking)  # columns, best first
        full = (ranks > 0).any(1, keepdim=True) | ((positions >= 0).sum(1, keepdim=True) > self.slots)
        new_ranks = torch.arange(1, order.shape[1] + 1, device=order.device).expand_as(order)
        by_column = torch.zeros_like(new_ranks).scatter(1, ranked, new_ranks)
        memory[..., 1] = torch.where(full & old, by_column, ranks).float()
        return ranked.gather(1, (count - 1).clamp(min=0))[:, 0]

    def drop(self, heads: FullHeads) -> bool:
        ranked = bool(heads.known.drops) and self.window_size <= heads.known.consecutive
        return ranked and drop(CAKE, heads, (self.window_size, self.kernel_size))

    def _next_ranking(self, memory: torch.Tensor, positions: torch.Tensor, known: Known) -> torch.Tensor:
        """The same where each head has the ranks 1, 2, ... of its last drop, and one token that has just left the
        window: no search for the old ones' order.
        """
        assert known.next is not None
        heads, width = positions.shape
        count = width - self.window_size
        places = (memory[..., 1].long() - 1).remainder_(count)  # what has left the window is last
        places.masked_fill_(positions >= known.next - self.window_size, count)
        attention = memory.new_empty(heads, count + 1).scatter_(1, places, memory[..., 0])[:, None, :count]
        pooled = F.avg_pool1d(attention, self.kernel_size, stride=1, padding=self.kernel_size // 2)[:, 0]
        ranking = pooled.sort(dim=1, descending=True, stable=True).indices
        new_ranks = torch.arange(1, count + 1, device=positions.device).expand_as(ranking)
        ranks = new_ranks.new_zeros(heads, count + 1).scatter_(1, ranking, new_ranks).gather(1, places)
        memory[..., 1] = ranks
        return ranks.argmax(1)
