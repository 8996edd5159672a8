"""What layers of both ways to share a prompt have in common: they hold the prompt already, and attend themselves."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from cokv.cache.attention.interface import tagged
from cokv.cache.compat import Layer


class SharingLayer(Layer):
    """`seen` counts tokens; `attend`, which each way writes for itself, takes in the new ones."""

    seen: int

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen += key_states.shape[-2]
        return tagged(key_states, self), value_states

    def attends(self) -> bool:
        return True

    def observe(self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> None:
        raise AssertionError("a layer of a shared prompt always attends itself")

    @abstractmethod
    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
        """Queries [rows or nodes, num_heads, t, head_dim], and K and V of these tokens; gives the output likewise."""
