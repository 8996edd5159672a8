"""Token scorers: how useful is each prompt token to each KV head?

A scorer is a frozen dataclass whose fields are its hyper-parameters. It reads one layer of a prefill and returns
float32 `[num_kv_heads, seq_len]`, higher is better, `+inf` for tokens the method always keeps (an observation window,
sinks). It ranks tokens inside a head; an allocator decides how many each head keeps. Scorers with equal fields give
equal scores, so a caller may share the scores between methods.

Optional members:

    reads: str                         what it reads, in words, for the table of methods
    observers: tuple[Observer, ...]    what the prefill must compute for it, see cokv/model/observe.py
    refine(layer, scores, counts)      its scores once each head's number of slots is known, where the rule depends on
                                       it: half of them for the newest tokens, a second stage for the other half
    measure(layer)                     numbers per KV head of this prompt, for an allocator that looks at the prompt
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from cokv.types import FloatArray

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


class Scorer(Protocol):
    """Ranks the tokens of each KV head of one layer; a frozen dataclass, so equal fields make equal scorers."""

    @property
    def window_size(self) -> int:
        """How many of the last prompt queries the prefill must hold."""
        ...

    def reserved(self, seq_len: int) -> int:
        """How many tokens of each head are always kept."""
        ...

    def check_budget(self, kv_budget: int) -> None:
        """Raises CokvError if a prompt longer than `kv_budget` cannot be compressed to it."""
        ...

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        """float32 [num_kv_heads, seq_len]; +inf for tokens that must be kept."""
        ...


@runtime_checkable
class Refines(Protocol):
    """A scorer whose ranking depends on how many tokens a head may keep."""

    def refine(self, layer: PrefillLayer, scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """float32 [num_kv_heads, seq_len] from the scores of that shape and the slots of each head, int64."""
        ...


@runtime_checkable
class Measures(Protocol):
    """A scorer that also measures the prompt, for an allocator that looks at it."""

    def measure(self, layer: PrefillLayer) -> FloatArray:
        """float64 [num_kv_heads, ...]"""
        ...
