"""The vocabulary: head scores, budgets, selections, and the errors a user sees.

Every object checks itself when it is made, is not to be changed afterwards, and can be written to one safetensors file.
Nothing here knows of models, methods or tasks.

    head scores  float64 [num_layers, num_kv_heads]   how important each KV head is
    budgets      int64   [num_layers, num_kv_heads]   KV slots kept, window and sinks included
    selection    which prompt positions stay, ascending, per (layer, KV head)
"""

from cokv.types.arrays import FloatArray, IntArray
from cokv.types.budgets import Budgets
from cokv.types.errors import CokvError, Infeasible
from cokv.types.files import JSON, named, read_tensors, replace_file, sync_folder, write_tensors
from cokv.types.head_scores import HeadScores
from cokv.types.kv_budget import KVBudget
from cokv.types.selection import Selection

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
