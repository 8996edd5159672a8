"""How many bytes of tensors a piece of code holds at most, counted from the storages that its operations make.

Counts what the code makes, not its arguments, and no scratch space inside an operation. Knows nothing of models.
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
        self.foreign: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for arguments in tree_leaves((args, kwargs)):
            if isinstance(arguments, torch.Tensor) and id(arguments.untyped_storage()) not in self.alive:
                self.foreign.add(arguments.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for output in tree_leaves(result):
            if isinstance(output, torch.Tensor):
                self._count(output.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key = id(storage)
        if storage in self.foreign or key in self.alive:
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
