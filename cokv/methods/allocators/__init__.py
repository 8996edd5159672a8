"""Budget allocators: how many KV slots does each (layer, KV head) get out of one shared total?

An allocator is a frozen dataclass whose fields are its hyper-parameters. Its inputs are the token scores of all layers,
the total, the prompt's length, how many tokens every head always keeps (`reserved`), and an offline head profile if its
method has one. It ends in `integerize`, the only place that rounds: the budgets sum to min(total, num_layers *
num_kv_heads * seq_len) exactly, none is below `reserved` or above `seq_len`. With exact = False, where that is a field,
it rounds as the method's released code does, and the sum misses the total by what that code leaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch

from cokv.types import Budgets

# What a layer's budgets depend on besides the total: the model's shape, the layer's token scores, the scores of all
# layers, or what the scorer measures of the prompt (`measure`), which is then passed as `profile`.
LooksAt: TypeAlias = Literal["shape", "layer_scores", "all_scores", "prompt"]


class Allocator(Protocol):
    """Splits a total of KV slots over all heads; a frozen dataclass."""

    @property
    def looks_at(self) -> LooksAt: ...

    @property
    def exact(self) -> bool:
        """True: the budgets sum to the total on every prompt."""
        ...

    def budgets(self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: Any) -> Budgets:
        """Raises Infeasible for a total too small for the rule, with the smallest kv_budget that works.

        scores: one float32 [num_kv_heads, seq_len] per layer. profile: head scores, or whatever the method needs.

        For an allocator that looks at "prompt": float64 [num_layers, num_kv_heads, ...], the scorer's `measure`.
        """
        ...


@runtime_checkable
class StatesFacts(Protocol):
    """An allocator whose rule has a number that the total decides: how many heads stay whole, which threshold."""

    def facts(self, total: int, seq_len: int, reserved: int, profile: Any) -> dict[str, float]:
        """That number by name, for a run's records; arguments as of `budgets`."""
        ...


@runtime_checkable
class HasFloor(Protocol):
    """An allocator that needs more slots than its scorer, how many depending on the prompt's length."""

    def check_floor(self, slots: int, heads: int, reserved: int) -> None:
        """Raises Infeasible for a kv_budget at which no prompt longer than it could be compressed."""
        ...
