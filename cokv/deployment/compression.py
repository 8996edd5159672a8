"""A method at a budget as what a cache compresses its prompt by; see cokv/cache/compression.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cokv.cache.policies.base import Policy
from cokv.cache.prefill import PrefillLayer
from cokv.methods.method import Method
from cokv.methods.profile_digest import profile_digest
from cokv.model.observe import Observer, Replayer
from cokv.model.shape import Shape
from cokv.types import JSON, KVBudget


@dataclass(frozen=True, eq=False)
class MethodCompression:
    """See cokv.cache.compression.Compression: a method at a budget, on a model of this shape."""

    method: Method
    kv_budget: KVBudget | None
    profile: Any
    shape: Shape

    positions_are_sound = True  # a Method's selection is made of ranks

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def window(self) -> int:
        return self.method.window_size or 1

    @property
    def observers(self) -> Sequence[Observer]:
        return [observer for observer in dict.fromkeys(self.method.observers) if not isinstance(observer, Replayer)]

    @property
    def layer_local(self) -> bool:
        return self.method.layer_local

    @property
    def further_passes(self) -> bool:
        """Whether the method reads the prompt again, which no forward pass of the prompt alone can do."""
        return self.method.reads_prompt_again

    def positions(self, layers: Sequence[PrefillLayer], place: int | None) -> list[list[torch.Tensor]]:
        if place is not None:
            return [self.method.select_layer(layers[0], place, self.shape.num_layers, self.kv_budget, self.profile)]
        selection = self.method.select(_Prompt(list(layers)), self.kv_budget, self.profile)  # type: ignore[arg-type]
        return [[selection.head(i, h) for h in range(selection.num_kv_heads)] for i in range(len(layers))]

    def policy(self, seq_len: int) -> Policy:
        return self.method.bound_policy(
            self.kv_budget, seq_len, self.shape.num_layers, self.shape.num_kv_heads, self.profile
        )

    def facts(self) -> dict[str, JSON]:
        """Of the method, for the header of a saved cache."""
        budget = None if self.kv_budget is None else self.kv_budget.nominal
        return {**self.method.spec(), "kv_budget": budget, "profile": profile_digest(self.profile)}


@dataclass(frozen=True, eq=False)
class _Prompt:
    """What `Method.select` reads of a Prefill."""

    layers: list[PrefillLayer]

    @property
    def seq_len(self) -> int:
        return int(self.layers[0].keys.shape[1])
