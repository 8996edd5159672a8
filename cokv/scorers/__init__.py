"""Token scorers: how useful is each prompt token to each KV head?

A scorer is a frozen dataclass whose fields are its hyper-parameters. It looks at one layer of a prefill and returns
float32 `[num_kv_heads, seq_len]`, higher is better, `+inf` for tokens the method always keeps (an observation window,
sinks). It ranks tokens inside a head; how many of them each head may keep is an allocator's question, and what they
are worth to an answer is a metric's. Two scorers with equal fields give equal scores, so a caller may share them
between methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from cokv.prefill import PrefillLayer


class Scorer(Protocol):
    @property
    def window_size(self) -> int:
        """How many of the last prompt queries the prefill must hold."""
        ...

    def reserved(self, seq_len: int) -> int:
        """How many tokens of each head are always kept."""
        ...

    def check_budget(self, kv_budget: int) -> None:
        """Raise CokvError if a prompt longer than `kv_budget` cannot be compressed to it."""
        ...

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        """float32 [num_kv_heads, seq_len]; +inf must be kept."""
        ...
