"""Budget allocators: how many KV slots does each (layer, KV head) get out of one shared total?

An allocator is a frozen dataclass whose fields are its hyper-parameters. It sees the token scores of all layers, the
total, the prompt's length, how many tokens per head are kept anyway (`reserved`), and an offline head profile if its
method has one. It ends in `integerize`, the only place that rounds: the budgets sum to min(total, num_layers *
num_kv_heads * seq_len) exactly, none is below `reserved` or above `seq_len`. With `exact` off, where a field of that
name exists, it rounds as the method's released code does instead, and the sum misses the total by what that code
leaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import torch

from cokv.types import Budgets, HeadScores


class Allocator(Protocol):
    # What a layer's budgets depend on: its own scores ("layer_scores"), or no scores at all ("shape").
    looks_at: ClassVar[Literal["layer_scores", "shape"]]

    @property
    def exact(self) -> bool:
        """True: the budgets sum to the total on every prompt."""
        ...

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: HeadScores | None
    ) -> Budgets:
        """scores: one float32 [num_kv_heads, seq_len] per layer."""
        ...
