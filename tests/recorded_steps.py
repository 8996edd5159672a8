"""What a CUDA graph does, on the CPU: records the operators of a function with the tensors they had, and runs these
again. Numbers that the host knew are as they were then; what was recorded has not been done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.tape: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by address: what was written to, and had been
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in ("aten::_local_scalar_dense", "aten::nonzero"):
            raise AssertionError(f"{func} cannot be recorded: the host would wait")
        if func._schema.is_mutable:
            for argument, tensor in zip(func._schema.arguments, args, strict=False):
                written = argument.alias_info is not None and argument.alias_info.is_write
                if written and tensor.untyped_storage().data_ptr() not in self.made | set(self.before):
                    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                    self.before[tensor.untyped_storage().data_ptr()] = whole, whole.clone()
        out = func(*args, **kwargs)
        self.tape.append((func, args, kwargs, out))
        if not func.is_view and not func._schema.is_mutable:
            self.made |= {x.untyped_storage().data_ptr() for x in tree_leaves(out) if isinstance(x, torch.Tensor)}
        return out

    def undo(self) -> None:
        for tensor, had in self.before.values():
            tensor.copy_(had)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self.tape:
                if func.is_view:
                    continue
                again = func(*args, **kwargs)
                if not func._schema.is_mutable:
                    for new, old in zip(tree_leaves(again), tree_leaves(out), strict=True):
                        if isinstance(old, torch.Tensor):
                            old.copy_(new)


def record(work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """As decode.graphed.cuda_graph."""
    recorder = _Recorder()
    with recorder:
        out = work()
    recorder.undo()
    return recorder.replay, out
