"""Rows to decode, split into batches that fit a bound of bytes, and the way they are computed in."""

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
from cokv.decode.head_mask import Kept, Table, kept_tokens
from cokv.decode.shared import SharedLayer
from cokv.decode.trie import expandable
from cokv.types import CokvError, IntArray

Way = Literal["ragged", "shared", "trie"]
AnyWay = Literal["ragged", "shared", "trie", "auto"]


@dataclass(frozen=True)
class Row:
    """What one row keeps of the prompt, and what happens to its cache meanwhile."""

    selection: Kept
    policy: Policy = field(default_factory=Grow)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows computed together. `places`: where each stood among all rows, [rows]."""

    rows: list[Row]
    places: IntArray


def choose(model: PreTrainedModel, prefill: Prefill, rows: Sequence[Row]) -> Way:
    """What way="auto" means for these rows: the cheapest by count, of those that can decode them."""
    if not rows or not all(isinstance(row.policy, Grow) for row in rows):
        return "ragged"
    weights = model.num_parameters(exclude_embeddings=True)
    table = Table.of(prefill, [row.selection for row in rows])
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
    further_bytes: int = 0,
) -> Iterator[tuple[Way, Batch]]:
    """Batches of at most `max_bytes` (or one row), each with its way.

    `new_tokens`: what each row may add to the prompt; `queries`: the most it reads at once; `further_bytes`: what the
    caller holds per row. The trie way needs all rows before the first batch, to put together those that share the most,
    and so does "auto"; the others take them as they go.
    """
    if way not in get_args(AnyWay):
        raise CokvError(f"unknown way to decode {way!r}; expected one of {', '.join(get_args(AnyWay))}")
    if way == "auto":
        rows = list(rows)
        way = choose(model, prefill, rows)
    if way == "trie":
        rows = list(rows)
        order = Table.of(prefill, [row.selection for row in rows]).order() if rows else np.empty(0, np.int64)
        placed: Iterable[tuple[int, Row]] = ((int(place), rows[place]) for place in order)
    else:
        placed = enumerate(rows)
    group: list[tuple[int, Row]] = []
    size = 0
    for place, row in placed:
        cost = _row_bytes(prefill, row, way, new_tokens, queries) + further_bytes
        if group and size + cost > max_bytes:
            yield way, _batch(group)
            group, size = [], 0
        group.append((place, row))
        size += cost
    if group:
        yield way, _batch(group)


def _batch(group: list[tuple[int, Row]]) -> Batch:
    return Batch([row for _, row in group], np.array([place for place, _ in group], dtype=np.int64))


def _row_bytes(prefill: Prefill, row: Row, way: Way, new_tokens: int, queries: int) -> int:
    """What a row's storage and attention weights take; in the trie way, at most."""
    shape = prefill.shape
    if way == "ragged":
        slots = shape.num_layers * shape.num_kv_heads * max(new_tokens, SLACK)
        return (kept_tokens(row.selection, shape) + slots) * prefill.token_bytes
    if not isinstance(row.policy, Grow):
        raise CokvError(f"the {way} way keeps every token as it is; rows with a policy of their own need way='ragged'")
    return SharedLayer.row_bytes(prefill, new_tokens, queries)
