"""Below-average attention: tokens to which many recent queries pay less than the average are dropped first.

Scissorhands, arXiv 2305.17118 (no code was released). A query that sees t tokens pays each of them 1/t on average. A
token's counter is the number of the last `history` prompt queries that pay it less. The highest counters are dropped;
the newest `recent` tokens never are. Score: minus the counter, mean over the query heads that share the KV head.

The paper leaves open whether a query that precedes a token, and so pays it nothing, counts (algorithm 2 adds up rows of
attention below 1/t, and then sets the counters of the newest tokens to 0). With count_unseen it does. Then what keeps a
token is how many queries paid it more than average, and the rule about the newest is needed, since they had few queries
to be paid by. Without, no counter can exceed its token's age: new tokens stay by their age alone, and that rule would
say nothing. So the first reading is the default.

Differs: the paper drops half the budget whenever the cache is full, so the cache holds between half and all of the
budget; here the whole budget is used after the prompt, as for every method. Decoding: policies/scissorhands.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.methods.scorers.causal import view_attention
from cokv.methods.scorers.checks import require_slot, require_whole
from cokv.methods.scorers.window import Windowless

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer
    from cokv.model.observe import LayerView, Observation


@dataclass(frozen=True)
class BelowAverage:
    """Observer: how many of the last `history` queries pay a token less than 1/t: [num_kv_heads, seq_len]."""

    history: int

    @property
    def last_queries(self) -> int:
        return self.history

    def observe(self, view: LayerView) -> Observation:
        seq_len = view.keys.shape[1]
        counts = torch.zeros(view.keys.shape[:2], device=view.keys.device)
        first = max(seq_len - self.history, 0)
        for head, row, weights in view_attention(view, first):
            rows, columns = weights.shape[1:]
            num_visible = torch.arange(row + 1, row + rows + 1, device=weights.device)[:, None]  # of each query
            below = weights.lt_(1 / num_visible)  # 1 or 0, in place
            before = (torch.arange(columns, device=weights.device) - row).clamp(min=0)  # queries that do not see it
            counts[head, :columns] += below.sum(dim=1).mean(dim=0) - before
        return (counts,)


@dataclass(frozen=True)
class ScissorhandsScorer(Windowless):
    """Minus the number of the last queries that pay a token less than average.

    history: how many queries count. recent: newest tokens that always stay. count_unseen: queries before a token count
    as paying it less.
    """

    reads: ClassVar[str] = "attention of the last `history` prompt queries"

    history: int = 400
    recent: int = 10
    count_unseen: bool = True

    def __post_init__(self) -> None:
        require_whole(self, history=1, recent=0)

    @property
    def observers(self) -> tuple[BelowAverage]:
        return (BelowAverage(self.history),)

    def reserved(self, seq_len: int) -> int:
        return min(self.recent, seq_len)

    def check_budget(self, kv_budget: int) -> None:
        require_slot(kv_budget, self.recent, f"the {self.recent} newest tokens", "recent")

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        (counts,) = layer.observation(BelowAverage(self.history))
        scores = -counts
        if self.count_unseen:
            first = max(counts.shape[1] - self.history, 0)  # of the queries that count
            scores -= (torch.arange(counts.shape[1], device=counts.device) - first).clamp(min=0)
        scores[:, counts.shape[1] - self.reserved(counts.shape[1]) :] = torch.inf
        return scores
