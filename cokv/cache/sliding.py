"""transformers' layer for sliding-window attention, where it is part of a cache of this package.

It attends what transformers' layer attends, and keeps `spare` tokens more: a prompt whose last token is read again
needs one. What is added: an empty layer after `reset`, errors in one line for tokens that are gone and for a model that
runs elsewhere, an end to what is kept for taking tokens back, and storage of the window's size after a long prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from cokv.types import CokvError

TAKEN_BACK = 256  # tokens beside the window that can be dropped again, once transformers has asked for that


class SlidingLayer(DynamicSlidingWindowLayer):
    """keys, values [rows, num_kv_heads, at most sliding_window - 1 + spare, head_dim]."""

    keys: Any  # a tensor once there is one
    values: Any

    def __init__(self, sliding_window: int, spare: int = 0) -> None:
        super().__init__(sliding_window)  # type: ignore[no-untyped-call]
        self.spare = spare

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        check_device(self.device, key_states.device)
        t = key_states.shape[-2]
        self.cumulative_length += t
        more = t + TAKEN_BACK if getattr(self, "record_past", False) else self.spare
        every = [torch.cat(pair, dim=-2) for pair in ((self.keys, key_states), (self.values, value_states))]
        self.keys, self.values = (self._newest(each, self.sliding_window - 1 + more) for each in every)
        if t > 1:  # of a long prompt no view is kept
            self.keys, self.values = self.keys.clone(), self.values.clone()
        return tuple(self._newest(each, self.sliding_window - 1 + t) for each in every)

    @staticmethod
    def _newest(tensor: torch.Tensor, count: int) -> torch.Tensor:
        return tensor[:, :, max(tensor.shape[2] - count, 0) :]

    def check_crop(self, count: int) -> None:
        """Refuses to drop the newest `count` tokens where others would be missing from the window."""
        if count and self.keys.shape[-2] - count < min(self.sliding_window - 1, self.cumulative_length - count):
            remedy = (
                "call cache.activate_past_recording() before reading tokens that may be dropped"
                if hasattr(self, "activate_past_recording")
                else "assisted decoding of such a model needs a newer transformers"
            )
            raise CokvError(
                f"crop: a layer with a sliding window of {self.sliding_window} tokens has dropped what the window held "
                f"{count} tokens ago; {remedy}, or use a copy of the cache"
            )

    def reset(self) -> None:
        self.__init__(self.sliding_window, self.spare)  # type: ignore[misc]

    def to(self, device: torch.device) -> None:
        if self.is_initialized:
            self.keys, self.values, self.device = self.keys.to(device), self.values.to(device), device
            self._sliding_window_tensor = self._sliding_window_tensor.to(device)


def check_device(cache: torch.device, model: torch.device) -> None:
    """What is stored must lie where the model computes the layer's keys."""
    if cache != model:
        raise CokvError(f"the cache lies on {cache} and the model's keys come on {model}; call cache.to('{model}')")
