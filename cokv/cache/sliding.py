"""transformers' layer for sliding-window attention, where it is part of a cache of this package.

It keeps what transformers keeps. What is added: an empty layer after `reset`, errors in one line for tokens that are
gone and for a model that runs elsewhere, and an end to what is kept for taking tokens back.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from cokv.types import CokvError

TAKEN_BACK = 256  # tokens beside the window that can be dropped again, once transformers has asked for that


class SlidingLayer(DynamicSlidingWindowLayer):
    """keys, values [rows, num_kv_heads, at most sliding_window - 1, head_dim]."""

    keys: Any  # a tensor once there is one
    values: Any

    def __init__(self, sliding_window: int) -> None:
        super().__init__(sliding_window)  # type: ignore[no-untyped-call]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.is_initialized:
            check_device(self.device, key_states.device)
        attended = super().update(key_states, value_states, *args, **kwargs)
        if getattr(self, "record_past", False):
            most = self.sliding_window - 1 + key_states.shape[-2] + TAKEN_BACK
            self.keys, self.values = self.keys[:, :, -most:], self.values[:, :, -most:]
        return attended

    def check_crop(self, count: int) -> None:
        """Refuses to drop the newest `count` tokens where others would be missing from the window."""
        if count and self.keys.shape[-2] - count < min(self.sliding_window - 1, self.cumulative_length - count):
            raise CokvError(
                f"crop: a layer with a sliding window of {self.sliding_window} tokens has dropped what the window held "
                f"{count} tokens ago; call cache.activate_past_recording() before reading tokens that may be dropped, "
                "or use a copy of the cache"
            )

    def reset(self) -> None:
        self.__init__(self.sliding_window)  # type: ignore[misc]

    def to(self, device: torch.device) -> None:
        if self.is_initialized:
            self.keys, self.values, self.device = self.keys.to(device), self.values.to(device), device
            self._sliding_window_tensor = self._sliding_window_tensor.to(device)


def check_device(cache: torch.device, model: torch.device) -> None:
    """What is stored must lie where the model computes the layer's keys."""
    if cache != model:
        raise CokvError(f"the cache lies on {cache} and the model's keys come on {model}; call cache.to('{model}')")
