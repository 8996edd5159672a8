"""Prefills of many prompts within a memory bound: on the device, in CPU memory, or computed again when needed.

A game uses its prompts' prefills in turn, once for every block of coalitions. Results do not depend on the bounds: a
prefill comes back from CPU memory bit for bit, and a dropped one is computed again from the same ids.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from cokv.cache.prefill import Prefill, PrefillLayer, prefill
from cokv.types import CokvError


@dataclass(eq=False)
class PrefillStore:
    """At most `device_bytes` of prefills on the model's device and `host_bytes` in CPU memory, least recently used out
    first: from the device to CPU memory, from there out of memory.

    `handle(ids)` returns a function for GamePrompt. A prefill larger than a bound is used all the same, but not kept.
    For a model on the CPU both bounds count the same memory, and moving between them copies nothing.
    """

    model: PreTrainedModel
    device_bytes: int
    host_bytes: int = 0
    computed: int = 0  # prefill passes so far
    _device: OrderedDict[int, Prefill] = field(default_factory=OrderedDict, repr=False)
    _host: OrderedDict[int, Prefill] = field(default_factory=OrderedDict, repr=False)
    _handles: int = 0

    def __post_init__(self) -> None:
        if min(self.device_bytes, self.host_bytes) < 0:
            raise CokvError(
                f"bounds of {self.device_bytes} and {self.host_bytes} bytes for prefills; expected 0 or more"
            )

    def handle(self, input_ids: torch.Tensor) -> Callable[[], Prefill]:
        """A function that returns the prefill of a prompt (int64 [seq_len]), computed at its first call."""
        number, self._handles = self._handles, self._handles + 1
        return lambda: self._get(number, input_ids)

    @property
    def held_bytes(self) -> dict[str, int]:
        """Bytes on the device and in CPU memory."""
        return {"device": _total(self._device), "host": _total(self._host)}

    def _get(self, number: int, input_ids: torch.Tensor) -> Prefill:
        if number in self._device:
            self._device.move_to_end(number)
            return self._device[number]
        on_host = self._host.pop(number, None)
        if on_host is None:
            result = prefill(self.model, input_ids, window=1)  # a coalition needs no window queries
            self.computed += 1
        else:
            result = on_device(on_host, self.model.device)
        self._make_room(prefill_bytes(result))
        if prefill_bytes(result) <= self.device_bytes:
            self._device[number] = result
        else:
            self._to_host(number, on_host or result)
        return result

    def _make_room(self, needed: int) -> None:
        while self._device and _total(self._device) + needed > self.device_bytes:
            self._to_host(*self._device.popitem(last=False))

    def _to_host(self, number: int, evicted: Prefill) -> None:
        needed = prefill_bytes(evicted)
        if needed > self.host_bytes:
            return
        while _total(self._host) + needed > self.host_bytes:
            self._host.popitem(last=False)
        self._host[number] = on_device(evicted, torch.device("cpu"))


def _total(prefills: OrderedDict[int, Prefill]) -> int:
    return sum(map(prefill_bytes, prefills.values()))


def prefill_bytes(prefilled: Prefill) -> int:
    """Bytes of all tensors of a prefill."""
    tensors = [prefilled.first_logits, prefilled.input_ids]
    for layer in prefilled.layers:
        tensors += [layer.keys, layer.values, layer.window_queries]
    for sliding in prefilled.sliding.values():
        tensors += [t for t in (sliding.keys, sliding.values) if t is not None]
    return sum(t.numel() * t.element_size() for t in tensors)


def on_device(prefilled: Prefill, device: torch.device) -> Prefill:
    """The same prefill on a device; itself if it is there already. Memory copied from CUDA to the CPU is pinned."""
    if prefilled.first_logits.device == device:
        return prefilled

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if device.type != "cpu" or tensor.device.type != "cuda":
            return tensor.to(device, non_blocking=True)
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        return pinned.copy_(tensor)

    layers = [_moved(layer, move) for layer in prefilled.layers]
    sliding: dict[int, Any] = {}
    for index, layer in prefilled.sliding.items():
        assert layer.keys is not None and layer.values is not None
        sliding[index] = copy.copy(layer)
        sliding[index].keys, sliding[index].values = move(layer.keys), move(layer.values)
        sliding[index].device = device
    return replace(prefilled, layers=layers, sliding=sliding, first_logits=move(prefilled.first_logits))


def _moved(layer: PrefillLayer, move: Callable[[torch.Tensor], torch.Tensor]) -> PrefillLayer:
    return replace(layer, keys=move(layer.keys), values=move(layer.values), window_queries=move(layer.window_queries))
