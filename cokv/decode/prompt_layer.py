"""What layers of both ways to share a prompt have in common: they hold the prompt already, and attend themselves."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from cokv.cache.attention.handshake import in_autocast_dtype
from cokv.cache.compat import Layer


class SharingLayer(Layer):
    """`seen` counts tokens; `attend`, which each way writes for itself, takes in the new ones."""

    tokens_seen: int

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.tokens_seen += key_states.shape[-2]
        key_states, value_states = in_autocast_dtype(key_states), in_autocast_dtype(value_states)
        return self.offer(key_states, value_states, key_states.shape[-2])

    def attends(self) -> bool:
        return True

    @abstractmethod
    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
        """Queries [rows or nodes, num_heads, t, head_dim], and K and V of these tokens; gives the output likewise."""
