"""Below-average attention: tokens that recent queries often pass over go first.

Scissorhands, arXiv 2305.17118 (no code was released). A query that sees t tokens gives each of them 1/t on
average. A token's counter says how many of the last `history` prompt queries gave it less. The highest counters are
dropped; the newest `recent` tokens never are. Score: minus the counter, mean over the query heads that share the KV
head.
Differs: the paper drops half the budget whenever the cache is full, so what it holds lies between half and all of the
budget; here the budget is full after the prompt, as for every method. What happens while decoding is a policy's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.methods.scorers.causal import causal_attention
from cokv.methods.scorers.checks import require_slot, require_whole
from cokv.methods.scorers.window import Windowless

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer
    from cokv.model.observe import LayerView, Observation


@dataclass(frozen=True)
class PassedOver:
    """Observer: by how many of the last `history` queries a token got less than 1/t: [num_kv_heads, seq_len]."""

    history: int

    def observe(self, view: LayerView) -> Observation:
        seq_len = view.keys.shape[1]
        counts = torch.zeros(view.keys.shape[:2], device=view.keys.device)
        first = max(seq_len - self.history, 0)
        for head, row, weights in causal_attention(view.queries, view.keys, view.scaling, first):
            rows, columns = weights.shape[1:]
            seen = torch.arange(row + 1, row + rows + 1, device=weights.device)[:, None]  # tokens each query sees
            visible = torch.arange(columns, device=weights.device) < seen
            below = (weights < 1 / seen) & visible
            counts[head, :columns] += below.float().sum(dim=1).mean(dim=0)
        return (counts,)


@dataclass(frozen=True)
class ScissorhandsScorer(Windowless):
    """Minus how many of the last queries passed a token over.

    history: how many queries are asked. recent: newest tokens that always stay.
    """

    reads: ClassVar[str] = "attention of the last `history` prompt queries"

    history: int = 400
    recent: int = 10

    def __post_init__(self) -> None:
        require_whole(self, history=1, recent=0)

    @property
    def observers(self) -> tuple[PassedOver]:
        return (PassedOver(self.history),)

    def reserved(self, seq_len: int) -> int:
        return min(self.recent, seq_len)

    def check_budget(self, kv_budget: int) -> None:
        require_slot(kv_budget, self.recent, f"the {self.recent} newest tokens", "recent")

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        (counts,) = layer.observation(PassedOver(self.history))
        scores = -counts
        scores[:, counts.shape[1] - self.reserved(counts.shape[1]) :] = torch.inf
        return scores
