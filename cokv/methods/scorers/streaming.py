"""Recency with attention sinks: the first few tokens always stay, then the newest.

StreamingLLM, arXiv 2309.17453; released in mit-han-lab/streaming-llm, streaming_llm/kv_cache.py (start_size 4, the
rest recent). Reads no attention: the scores depend only on the prompt's length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cokv.methods.scorers.checks import require_slot, require_whole
from cokv.methods.scorers.window import Windowless

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class Streaming(Windowless):
    """The newest tokens, beside the sinks.

    num_sinks: first tokens that always stay.
    """

    num_sinks: int = 4

    def __post_init__(self) -> None:
        require_whole(self, num_sinks=0)

    def reserved(self, seq_len: int) -> int:
        return min(self.num_sinks, seq_len)

    def check_budget(self, kv_budget: int) -> None:
        require_slot(kv_budget, self.num_sinks, f"the {self.num_sinks} sinks", "num_sinks")

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        num_kv_heads, seq_len = layer.keys.shape[:2]
        recency = torch.arange(seq_len, dtype=torch.float32, device=layer.keys.device)
        recency[: self.reserved(seq_len)] = torch.inf
        return recency.repeat(num_kv_heads, 1)
