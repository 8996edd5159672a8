"""Stores as JSON and named tensors, and back: what a file of a cache consists of.

Plain values, tensors, dtypes, policies and stores are all there is; classes are found by name among those that this
process knows, and nothing a file says is imported or run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from cokv.cache.attention.backend import Attend
from cokv.cache.policies.base import Policy
from cokv.cache.storage.state import assign, by_name, state_of
from cokv.types import JSON, CokvError


@dataclass(frozen=True)
class Encoder:
    """Collects tensors, each as [..] in CPU memory under a name of its own."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)  # storages of these

    def encode(self, value: Any, name: str) -> JSON:
        """`name`: of the tensor that a value is, or begins the names of those inside it."""
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, torch.Tensor):
            self.tensors[name] = self._apart(value.detach().cpu())
            return {"tensor": name}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, (list, tuple)):
            items = [self.encode(each, f"{name}.{place}") for place, each in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, dict):
            return {"items": [[key, self.encode(each, f"{name}.{key}")] for key, each in value.items()]}
        if isinstance(value, Policy):
            parts = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
            encoded = {key: self.encode(part, f"{name}.{key}") for key, part in parts.items()}
            return {"policy": type(value).__name__, "fields": encoded}
        state = state_of(value)
        if state is None:
            raise CokvError(f"{name}: a {type(value).__name__} cannot be saved; expected a store of this package")
        tight = state.compact(value)
        attributes = {each: self.encode(getattr(tight, each), f"{name}.{each}") for each in sorted(state.written)}
        return {"store": state.name, "attributes": attributes}

    def _apart(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same numbers in storage of their own, copied only where they have none."""
        storage = tensor.untyped_storage()
        own = storage.nbytes() == tensor.numel() * tensor.element_size() and storage.data_ptr() not in self.taken
        self.taken.add(storage.data_ptr())
        if own and tensor.is_contiguous() and (tensor.ndim == 0 or tensor.stride(-1) == 1):
            return tensor
        return tensor.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Decoder:
    """Makes stores of one layer: tensors that lie with its keys go to `device`."""

    tensors: Mapping[str, torch.Tensor]
    device: torch.device
    backend: Attend

    def decode(self, value: Any, with_keys: bool = False) -> Any:
        """Raises CokvError for what no Encoder has written; of another file's faults whatever comes of them."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return [self.decode(each, with_keys) for each in value]
        if "float" in value:
            return float(value["float"])
        if "tensor" in value:
            # A copy: what a file maps into memory is neither counted nor written to.
            tensor = self.tensors[value["tensor"]]
            return tensor.to(self.device, copy=True) if with_keys else tensor.clone()
        if "dtype" in value:
            dtype = getattr(torch, str(value["dtype"]), None)
            if not isinstance(dtype, torch.dtype):
                raise CokvError(f"holds numbers of type {value['dtype']!r}, which this torch does not know")
            return dtype
        if "tuple" in value:
            return tuple(self.decode(each, with_keys) for each in value["tuple"])
        if "items" in value:
            return {key: self.decode(each, with_keys) for key, each in value["items"]}
        if "policy" in value:
            return self._policy(value["policy"], value["fields"])
        return self._store(value["store"], value["attributes"])

    def _policy(self, name: str, encoded: dict[str, Any]) -> Policy:
        known = [kind for kind in _subclasses(Policy) if kind.__name__ == name]
        if len(known) != 1:
            raise CokvError(
                f"follows the rule {name}, of which this process knows {len(known)}; import its module first"
            )
        return known[0](**{key: self.decode(part) for key, part in encoded.items()})

    def _store(self, name: str, attributes: dict[str, Any]) -> Any:
        known = by_name(name)
        if known is None:
            raise CokvError(f"holds a store of kind {name!r}, which this version does not know")
        kind, state = known
        if {*attributes} != state.written:
            raise CokvError(f"a store of kind {name!r} has {sorted(attributes)}, expected {sorted(state.written)}")
        store: Any = object.__new__(kind)
        for attribute, encoded in attributes.items():
            assign(store, attribute, self.decode(encoded, attribute in state.device))
        if state.knows_device:
            assign(store, "device", self.device)
        state.remake(store, self.backend)
        return store


def _subclasses(kind: type) -> set[type]:
    below: list[type] = type.__subclasses__(kind)
    return {kind}.union(*map(_subclasses, below))
