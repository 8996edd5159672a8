"""Splits the rows to decode into batches of bounded size, and chooses the way to decode them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import numpy as np
from transformers import PreTrainedModel

from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import Grow
from cokv.cache.prefill import Prefill
from cokv.cache.storage.ragged import SLACK
from cokv.decode.cost import cheapest
from cokv.decode.head_mask import Kept, RowTable, kept_tokens
from cokv.decode.shared import SharedLayer
from cokv.decode.trie import expandable
from cokv.types import CokvError, IntArray

Way = Literal["ragged", "shared", "trie"]
AnyWay = Literal["ragged", "shared", "trie", "auto"]


@dataclass(frozen=True)
class Row:
    """What one row keeps of the prompt, and its cache policy while decoding."""

    selection: Kept
    policy: Policy = field(default_factory=Grow)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows computed together. `places`: each row's index among all rows, [rows]."""

    rows: list[Row]
    places: IntArray


def choose_way(model: PreTrainedModel, prefill: Prefill, rows: Sequence[Row]) -> Way:
    """Resolves way="auto": the way with the lowest estimated cost among those that can decode these rows."""
    if not rows or not all(isinstance(row.policy, Grow) for row in rows):
        return "ragged"
    weights = model.num_parameters(exclude_embeddings=True)
    table = RowTable.of(prefill, [row.selection for row in rows])
    way = cast(Way, cheapest(prefill, table, weights))
    return way if way != "trie" or expandable(model) else "shared"


def batches(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Iterable[Row],
    way: AnyWay,
    new_tokens: int,
    queries: int,
    max_bytes: int,
    extra_bytes: int = 0,
) -> Iterator[tuple[Way, Batch]]:
    """Batches of at most `max_bytes` (or one row), each with its way.

    `new_tokens`: how many tokens each row may append to the prompt; `queries`: the most it reads in one step;
    `extra_bytes`: what the caller allocates per row. "trie" and "auto" consume all rows before the first batch, to
    group those that share the most; the other ways consume them lazily.
    """
    if way not in get_args(AnyWay):
        raise CokvError(f"unknown way to decode {way!r}; expected one of {', '.join(get_args(AnyWay))}")
    if way == "auto":
        rows = list(rows)
        way = choose_way(model, prefill, rows)
    if way == "trie":
        rows = list(rows)
        order = RowTable.of(prefill, [row.selection for row in rows]).order() if rows else np.empty(0, np.int64)
        indexed_rows: Iterable[tuple[int, Row]] = ((int(index), rows[index]) for index in order)
    else:
        indexed_rows = enumerate(rows)
    group: list[tuple[int, Row]] = []
    size = 0
    for index, row in indexed_rows:
        row_bytes = _row_bytes(prefill, row, way, new_tokens, queries) + extra_bytes
        if group and size + row_bytes > max_bytes:
            yield way, _batch(group)
            group, size = [], 0
        group.append((index, row))
        size += row_bytes
    if group:
        yield way, _batch(group)


def _batch(group: list[tuple[int, Row]]) -> Batch:
    return Batch([row for _, row in group], np.array([index for index, _ in group], dtype=np.int64))


def _row_bytes(prefill: Prefill, row: Row, way: Way, new_tokens: int, queries: int) -> int:
    """Bytes of a row's storage and attention weights; an upper bound for the trie way."""
    shape = prefill.shape
    if way == "ragged":
        slots = shape.num_layers * shape.num_kv_heads * max(new_tokens, SLACK)
        return (kept_tokens(row.selection, shape) + slots) * prefill.token_bytes
    if not isinstance(row.policy, Grow):
        raise CokvError(f"the {way} way never evicts tokens; rows with a policy of their own need way='ragged'")
    return SharedLayer.row_bytes(prefill, new_tokens, queries)
