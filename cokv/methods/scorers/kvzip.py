"""Reconstruction: the tokens that the model attends to while it repeats the prompt.

KVzip, arXiv 2505.23416; released in snu-mllab/KVzip, attention/score.py, and in NVIDIA/kvpress,
presses/kvzip_press.py. After the prompt, on its full cache, the model reads an instruction to repeat it and then the
prompt itself again, chunk by chunk. A token's score is the largest attention that any query of its chunk's passage, in
any query head of the group, pays to it, with a softmax over the first num_sinks tokens, the chunk, and the passage so
far. The first num_sinks tokens always stay. Costs about two more prefills.

Differs: the whole prompt is the context, chat template and question included, since it arrives as one row of ids; the
released code never evicts those two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.methods.scorers.causal import causal_attention
from cokv.methods.scorers.checks import require_slot, require_whole
from cokv.methods.scorers.window import Windowless
from cokv.model.observe import Passage

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer
    from cokv.model.observe import ModelParts

FIRST = "\n\nRepeat the previous context exactly."
LATER = "\n\nRepeat the part of the previous context exactly, starting with"
LINK = 8  # tokens at the end of the previous chunk, with which a later passage starts


@dataclass(frozen=True)
class Repetition:
    """Replayer: the largest attention to each token while its chunk is repeated: [num_kv_heads, seq_len]."""

    needs_tokenizer: ClassVar[bool] = True

    chunk_size: int
    num_sinks: int

    def passages(self, input_ids: torch.Tensor, parts: ModelParts) -> Sequence[Passage]:
        ids = input_ids.tolist()
        passages = []
        for start in range(0, len(ids), self.chunk_size):
            end = min(start + self.chunk_size, len(ids))
            link = ids[max(start - LINK, 0) : start]
            instruction = parts.ids(LATER if start else FIRST) + link + parts.ids("\n")
            passages.append(Passage(start, end, tuple(instruction + ids[start:end])))
        return passages

    def look(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        scaling: float,
        passage: Passage,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        rows, start, end = queries.shape[1], passage.start, passage.end
        first = min(self.num_sinks, start)
        visible = torch.cat([keys[:, :first], keys[:, start:end], keys[:, keys.shape[1] - rows :]], dim=1)
        best = torch.zeros(keys.shape[0], end - start, device=keys.device)
        for head, _, weights in causal_attention(queries, visible, scaling, softcap=softcap, sinks=sinks):
            most = weights[..., first : first + end - start].flatten(0, 1).amax(dim=0)
            torch.maximum(best[head], most, out=best[head])
        return best


@dataclass(frozen=True)
class KVzipScorer(Windowless):
    """The largest attention to a token while the model repeats the prompt.

    chunk_size: tokens repeated at a time. num_sinks: first tokens that always stay.
    """

    reads: ClassVar[str] = "attention while the prompt is repeated (a second reading), the tokenizer"

    chunk_size: int = 2000
    num_sinks: int = 4

    def __post_init__(self) -> None:
        require_whole(self, chunk_size=1, num_sinks=0)

    @property
    def observers(self) -> tuple[Repetition]:
        return (Repetition(self.chunk_size, self.num_sinks),)

    def reserved(self, seq_len: int) -> int:
        return min(self.num_sinks, seq_len)

    def check_budget(self, kv_budget: int) -> None:
        require_slot(kv_budget, self.num_sinks, f"the {self.num_sinks} sinks")

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        scores = layer.observation(self.observers[0])[0].clone()
        scores[:, : self.reserved(scores.shape[1])] = torch.inf
        return scores
