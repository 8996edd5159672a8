"""Base class of the shared and trie layers: they already hold the prompt, and compute attention themselves."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from cokv.cache.attention.handshake import in_autocast_dtype
from cokv.cache.compat import Layer


class SharingLayer(Layer):
    """`seen`: tokens read so far. Subclasses implement `attend`, which also stores the new tokens' K and V."""

    tokens_seen: int

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.tokens_seen += key_states.shape[-2]
        key_states, value_states = in_autocast_dtype(key_states), in_autocast_dtype(value_states)
        return self.offer(key_states, value_states, key_states.shape[-2])

    def attends(self) -> bool:
        return True

    @abstractmethod
    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention output [rows or nodes, num_heads, t, head_dim] of queries of that shape; keys and values of the
        same t tokens: [rows or nodes, num_kv_heads, t, head_dim]. sinks [num_heads]: see attention/backend.py.
        """
