"""The vocabulary: head scores, budgets, selections, and the errors a user sees.

Every object checks itself when it is made, is not to be changed afterwards, and can be written to one safetensors file.
Nothing here knows of models, methods or tasks.

    head scores  float64 [num_layers, num_kv_heads]   how important each KV head is
    budgets      int64   [num_layers, num_kv_heads]   KV slots kept, window and sinks included
    selection    which prompt positions stay, ascending, per (layer, KV head)

Names are loaded when they are first used: the errors alone, and what only reads records, need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cokv.types.arrays import FloatArray, IntArray
    from cokv.types.budgets import Budgets
    from cokv.types.errors import CokvError, Infeasible
    from cokv.types.files import JSON, named, read_tensors, replace_file, sync_folder, write_tensors
    from cokv.types.head_scores import HeadScores
    from cokv.types.kv_budget import KVBudget
    from cokv.types.selection import Selection

_HOMES = {
    "JSON": "cokv.types.files",
    "Budgets": "cokv.types.budgets",
    "CokvError": "cokv.types.errors",
    "FloatArray": "cokv.types.arrays",
    "HeadScores": "cokv.types.head_scores",
    "Infeasible": "cokv.types.errors",
    "IntArray": "cokv.types.arrays",
    "KVBudget": "cokv.types.kv_budget",
    "Selection": "cokv.types.selection",
    "named": "cokv.types.files",
    "read_tensors": "cokv.types.files",
    "replace_file": "cokv.types.files",
    "sync_folder": "cokv.types.files",
    "write_tensors": "cokv.types.files",
}

__all__ = [
    "JSON",
    "Budgets",
    "CokvError",
    "FloatArray",
    "HeadScores",
    "Infeasible",
    "IntArray",
    "KVBudget",
    "Selection",
    "named",
    "read_tensors",
    "replace_file",
    "sync_folder",
    "write_tensors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cokv.types' has no attribute {name!r}; public: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
