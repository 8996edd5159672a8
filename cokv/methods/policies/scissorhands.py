"""Scissorhands while decoding: drops the token to which most of the last queries pay less than average.

Scissorhands, arXiv 2305.17118, algorithm 2 (no code was released). A query that sees t stored tokens pays each 1/t on
average; a token's counter is the number of the last `history` queries, prompt and answer, that pay it less. When a head
holds one token more than its limit, the token with the highest counter is dropped, of ties the latest, never one of the
newest `recent`. Counters are summed over the query heads that share a KV head, 32 bits per token. A query that leaves
the history is subtracted, so its contribution is stored: one bit per token and query, two for 2 or 3 query heads per KV
head, four for up to 15. Whether queries before a token count against it is `count_unseen`, see scorers/scissorhands.py;
where they do, what is stored is how many heads paid a token the average or more, which is 0 for them, and the lowest
sum is dropped.
Differs: the paper drops half the budget whenever the cache is full; here one token is dropped per step, so that the
whole budget is used, as for every method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cokv.cache.policies.protocol import NOTHING, EvictsByAttention, FullHeads, Known, check_limit, lowest, newest
from cokv.methods.policies.one_call import SCISSORHANDS, drop
from cokv.methods.scorers.causal import window_attention
from cokv.types import CokvError

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class ScissorhandsEviction(EvictsByAttention):
    """Drops the token to which most of the last queries pay less than average.

    limit: slots of a head. history: how many queries are remembered. recent: newest tokens that always stay.
    count_unseen: queries before a token count as paying it less.
    """

    does = "drop the token that most of the last queries passed over, never the newest"

    limit: int | None = None
    history: int = 400
    recent: int = 10
    count_unseen: bool = True

    def __post_init__(self) -> None:
        check_limit(self.history, 1, "for there to be a query to look back to")
        check_limit(self.limit, self.recent + 1, f"one beside the {self.recent} newest")

    @property
    def num_queries(self) -> int:
        """The history, and one more for a prompt whose last token is run again."""
        return self.history + 1

    def seed(self, layer: PrefillLayer) -> torch.Tensor:
        """Bytes of counts, then the counter. Query s of the answer is stored at s % history; the prompt's queries fill
        the end, the last one last.
        """
        heads, seq_len, _ = layer.keys.shape
        window, bits = min(self.history, seq_len), _bits(layer.window_queries.shape[0] // heads)
        entries = -(-self.history * bits // 32) * 32 // bits  # whole words, for the counter to lie behind
        counts = torch.zeros(heads, seq_len, entries, dtype=torch.uint8, device=layer.keys.device)
        num_visible = torch.arange(seq_len - window + 1, seq_len + 1, device=layer.keys.device)[:, None]  # per query
        visible = torch.arange(seq_len, device=layer.keys.device) < num_visible
        head = 0
        for weights in window_attention(layer, window):  # [heads of a block, group_size, window, seq_len]
            counted = (self._counts(weights, 1 / num_visible) & visible).sum(dim=1, dtype=torch.uint8)
            counts[head : head + len(counted), :, self.history - window : self.history] = counted.transpose(1, 2)
            head += len(counted)
        parts = counts.unflatten(-1, (-1, 8 // bits)).unbind(-1)
        packed = torch.stack([part << i * bits for i, part in enumerate(parts)]).sum(0, dtype=torch.uint8)
        counters = counts.sum(-1, keepdim=True, dtype=torch.int32)
        return torch.cat([packed, counters.view(torch.uint8)], dim=-1)

    def update(self, memory: torch.Tensor, weights: torch.Tensor, held: torch.Tensor | None, step: int) -> None:
        if held is None:
            counts = self._counts(weights, 1 / weights.shape[3])
        else:
            counts = self._counts(weights, 1 / held.sum(dim=-1)[:, :, None, None]) & held[:, :, None]
        counted = counts.sum(dim=2, dtype=torch.uint8)
        bits = _bits(weights.shape[2])
        byte, entry = divmod(step % self.history, 8 // bits)
        shift, counters = entry * bits, _counters(memory)
        leaving = memory[..., byte] & ((2**bits - 1) << shift)  # the query `history` steps ago
        memory[..., byte].sub_(leaving).add_(counted, alpha=1 << shift)
        counters.add_(counted).sub_(leaving >> shift)

    def worst(
        self, memory: torch.Tensor, positions: torch.Tensor, group_size: int, known: Known = NOTHING
    ) -> torch.Tensor:
        counters = _counters(memory).float()
        goodness = counters if self.count_unseen else -counters
        return lowest(goodness, positions, newest(positions, self.recent, known), known)

    def drop(self, heads: FullHeads) -> bool:
        settings = self.history, self.recent, int(self.count_unseen), _bits(heads.weights.shape[1])
        return self.recent <= heads.known.consecutive and drop(SCISSORHANDS, heads, settings)

    def _counts(self, weights: torch.Tensor, average: torch.Tensor | float) -> torch.Tensor:
        """Whether a query is stored as counting for a token: it pays it the average or more, or less."""
        return weights >= average if self.count_unseen else weights < average


def _counters(memory: torch.Tensor) -> torch.Tensor:
    """Int32 [..., tokens], a part of the memory."""
    return memory[..., -4:].view(torch.int32)[..., 0]


def _bits(group_size: int) -> int:
    """Bits per count from 0 to group_size: 1, 2, 4 or 8, so that counts fill whole bytes."""
    if group_size > 255:
        raise CokvError(
            f"Scissorhands counts at most 255 query heads per KV head and this model has {group_size}; "
            "use another method that evicts, such as h2o"
        )
    return next(bits for bits in (1, 2, 4, 8) if group_size < 2**bits)
