"""Prefills of many prompts within a stated bound: on the device, in CPU memory, or computed again when asked for.

A game asks for its prompts' prefills in turn, once for every block of coalitions. Nothing here changes a number: a
prefill that went to CPU memory comes back bit for bit, one that was dropped is computed again from the same ids.
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

    `handle(ids)` gives a call for GamePrompt. The prefill in use is not counted against a bound that it exceeds alone.
    For a model on the CPU both bounds count the same memory, and what leaves one is not copied.
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
        """The prefill of a prompt (int64 [seq_len]), made when first called for."""
        number, self._handles = self._handles, self._handles + 1
        return lambda: self._get(number, input_ids)

    @property
    def held(self) -> dict[str, int]:
        """Bytes on the device and in CPU memory."""
        return {"device": _total(self._device), "host": _total(self._host)}

    def _get(self, number: int, input_ids: torch.Tensor) -> Prefill:
        if number in self._device:
            self._device.move_to_end(number)
            return self._device[number]
        kept = self._host.pop(number, None)
        if kept is None:
            made = prefill(self.model, input_ids, window=1)  # a coalition needs no window queries
            self.computed += 1
        else:
            made = on_device(kept, self.model.device)
        self._make_room(prefill_bytes(made))
        if prefill_bytes(made) <= self.device_bytes:
            self._device[number] = made
        else:
            self._to_host(number, kept or made)
        return made

    def _make_room(self, wanted: int) -> None:
        while self._device and _total(self._device) + wanted > self.device_bytes:
            self._to_host(*self._device.popitem(last=False))

    def _to_host(self, number: int, made: Prefill) -> None:
        wanted = prefill_bytes(made)
        if wanted > self.host_bytes:
            return
        while _total(self._host) + wanted > self.host_bytes:
            self._host.popitem(last=False)
        self._host[number] = on_device(made, torch.device("cpu"))


def _total(held: OrderedDict[int, Prefill]) -> int:
    return sum(map(prefill_bytes, held.values()))


def prefill_bytes(made: Prefill) -> int:
    """Bytes of all tensors of a prefill."""
    tensors = [made.first_logits, made.input_ids]
    for layer in made.layers:
        tensors += [layer.keys, layer.values, layer.window_queries]
    for sliding in made.sliding.values():
        tensors += [t for t in (sliding.keys, sliding.values) if t is not None]
    return sum(t.numel() * t.element_size() for t in tensors)


def on_device(made: Prefill, device: torch.device) -> Prefill:
    """The same prefill on a device; itself where it is there. What comes from CUDA to the CPU is pinned."""
    if made.first_logits.device == device:
        return made

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if device.type != "cpu" or tensor.device.type != "cuda":
            return tensor.to(device, non_blocking=True)
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        return pinned.copy_(tensor)

    layers = [_moved(layer, move) for layer in made.layers]
    sliding: dict[int, Any] = {}
    for index, layer in made.sliding.items():
        assert layer.keys is not None and layer.values is not None
        sliding[index] = copy.copy(layer)
        sliding[index].keys, sliding[index].values = move(layer.keys), move(layer.values)
        sliding[index].device = device
    return replace(made, layers=layers, sliding=sliding, first_logits=move(made.first_logits))


def _moved(layer: PrefillLayer, move: Callable[[torch.Tensor], torch.Tensor]) -> PrefillLayer:
    return replace(layer, keys=move(layer.keys), values=move(layer.values), window_queries=move(layer.window_queries))
