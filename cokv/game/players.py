"""The players: KV heads, query heads or layers. Members of a coalition keep the whole prompt.

| players | number | a member keeps all positions in |
|---|---|---|
| kv_head | num_layers x num_kv_heads, layer-major | its KV head (CoKV, arXiv 2502.17501) |
| query_head | num_layers x num_heads, layer-major | its view of the KV head; stored is what any query head attends |
| layer | num_layers | all KV heads of the layer |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch

from cokv.cache.prefill import Prefill
from cokv.decode.batches import Row
from cokv.decode.head_mask import HeadMask
from cokv.game.plan import BoolArray
from cokv.model.shape import Shape
from cokv.types import CokvError, Selection

Players = Literal["kv_head", "query_head", "layer"]


def grid(shape: Shape, players: Players = "kv_head") -> tuple[int, int]:
    """Players as (rows, columns): a row for every layer with a budget."""
    if players not in get_args(Players):
        raise CokvError(f"unknown players {players!r}; expected one of {', '.join(get_args(Players))}")
    columns = {"kv_head": shape.num_kv_heads, "query_head": shape.num_heads, "layer": 1}
    return shape.num_layers, columns[players]


def coalition_rows(
    coalitions: BoolArray, prefill: Prefill, window_size: int, players: Players = "kv_head"
) -> Iterator[Row]:
    """A row to decode for each coalition (bool [coalitions, players]): members keep all positions, the others the last
    `window_size`.
    """
    shape = prefill.shape
    layers, columns = grid(shape, players)
    if coalitions.ndim != 2 or coalitions.shape[1] != layers * columns:
        name = {"kv_head": " x %d KV heads", "query_head": " x %d query heads", "layer": ""}[players]
        raise CokvError(
            f"coalition of shape {list(coalitions.shape[1:])}, expected one bool for each of {layers} layers"
            f"{name % columns if name else ''}"
        )
    patterns = torch.zeros(2, prefill.seq_len, dtype=torch.bool)
    patterns[0, max(prefill.seq_len - window_size, 0) :] = True
    patterns[1] = True
    indices = coalitions.reshape(len(coalitions), layers, columns).astype(np.int64)
    if players == "layer":
        indices = indices.repeat(shape.num_kv_heads, axis=2)
    return (Row(HeadMask(patterns, pattern_of_head)) for pattern_of_head in indices)


def coalition_selection(members: BoolArray, prefill: Prefill, window_size: int) -> Selection:
    """A coalition of KV heads (bool [num_layers * num_kv_heads]) as a Selection."""
    (row,) = coalition_rows(members[None], prefill, window_size)
    assert isinstance(row.selection, HeadMask)
    return row.selection.selection(prefill.shape.num_kv_heads)
