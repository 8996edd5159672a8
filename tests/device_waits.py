"""Counts waits for a device where there is none: tensors on "meta" have no numbers to give, as a GPU has none yet.

What would make a host wait for a GPU's numbers raises there; copies that the host waits for are counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")


class _Made(TorchFunctionMode):
    """Tensors made of the host's numbers on the device at once, which no dispatched operation tells of."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and result.device.type != "cpu":
            self.names.append(f"{func.__name__} on {result.device}")
        return result


class BlockingCopies(TorchDispatchMode):
    """`names`: copies to the device, or to the host, that wait for all work before them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._made = _Made(self.names)

    def __enter__(self) -> BlockingCopies:
        self._made.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.__name__.partition(".")[0] in ("_to_copy", "copy_"):
            source = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)][-1]
            blocking = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            if source.device != result.device and blocking:
                self.names.append(f"{func} {source.device} to {result.device}")
        return result
