"""How many bytes of tensors a piece of code holds at most, counted from the storages that its operations make.

Counts what it makes, not what it was given, and no scratch space inside an operation. Knows nothing of models.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes alive at once, so far."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.now = 0
        self.alive: dict[int, int] = {}
        self.given: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, torch.Tensor) and id(given.untyped_storage()) not in self.alive:
                self.given.add(given.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor):
                self._count(made.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key = id(storage)
        if storage in self.given or key in self.alive:
            return
        self.alive[key] = storage.nbytes()
        self.now += self.alive[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)


@contextmanager
def live_bytes() -> Iterator[LiveBytes]:
    with LiveBytes() as held:
        yield held
