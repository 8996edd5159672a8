"""Two stages: half of a head's slots by window attention, the rest by attention times what a value adds to the output.

CriticalKV, arXiv 2502.03805, algorithm 1; released in NVIDIA/kvpress, presses/criticalkv_press.py. First the best
first_stage of a head's slots by window attention a (see window_attention.py); then the others by
(a + epsilon) * ||v W_O||_1, where the norm is the mean over the query heads that share the KV head.
Differs: the released code counts the window among the first stage's slots, so a window of half the budget leaves that
stage no slot; here the stages share the slots beyond the window, unless window_in_first_stage is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.methods.scorers.blocks import at_once
from cokv.methods.scorers.checks import part_of, require_number
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.model.device import sent

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer
    from cokv.model.observe import LayerView, Observation


@dataclass(frozen=True)
class OutputNorm:
    """Observer: ||v W_O||_1, mean over the query heads that share the KV head: [num_kv_heads, seq_len]."""

    last_queries: ClassVar[int] = 0  # their number of heads is all that it needs

    def observe(self, view: LayerView) -> Observation:
        (num_heads, _, head_dim), seq_len = view.queries.shape, view.keys.shape[1]
        weight = view.parts.output_weight(view.layer_idx, num_heads, head_dim).float()
        num_kv_heads = view.values.shape[0]
        by_kv_head = weight.view(num_kv_heads, -1, head_dim, weight.shape[-1])
        norms = torch.zeros(num_kv_heads, seq_len, device=view.values.device)
        step = at_once(num_kv_heads * weight.shape[-1], weight.device)
        for start in range(0, seq_len, step):
            values = view.values[:, start : start + step].float()
            for head in by_kv_head.unbind(dim=1):  # one query head of every group
                lengths = torch.linalg.vector_norm(values @ head, ord=1, dim=-1)
                norms[:, start : start + step] += lengths / by_kv_head.shape[1]
        return (norms,)


@dataclass(frozen=True)
class Critical(WindowAttention):
    """Window attention first, then window attention times the norm of v W_O. Fields beyond those of WindowAttention:

    first_stage: share of the slots that go by window attention alone, 0..1. epsilon: added to the attention before the
    product. window_in_first_stage: whether the window counts among the first stage's slots.
    """

    reads: ClassVar[str] = "attention of the last window_size prompt queries, values, the output projection"

    first_stage: float = 0.5
    epsilon: float = 1e-4
    window_in_first_stage: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "first_stage", "a number between 0 and 1", lambda share: 0 <= share <= 1)
        require_number(self, "epsilon", "a number, 0 or more", lambda epsilon: epsilon >= 0)

    @property
    def observers(self) -> tuple[OutputNorm]:
        return (OutputNorm(),)

    def refine(self, layer: PrefillLayer, scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        (norms,) = layer.observation(OutputNorm())
        window = self.reserved(scores.shape[1])
        before = 0 if self.window_in_first_stage else window
        stage_slots = [before + part_of(slots - before, self.first_stage) for slots in counts.tolist()]
        first_slots = sent(torch.tensor(stage_slots), scores.device).clamp(min=window)
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        first = torch.arange(scores.shape[1], device=scores.device) < first_slots[:, None]
        stays = torch.zeros_like(first).scatter_(-1, order, first)
        return ((scores + self.epsilon) * norms).masked_fill(stays, torch.inf)
