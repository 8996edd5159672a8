"""Rows written by what they have in common: a few sets of positions, and which of them each head keeps.

A coalition of 256 heads on 8192 tokens is 256 small numbers as a `Choice`, and 16 MB as a Selection. A `Table` holds
many rows that way, Selections among them, and is what the shared ways are made from. Only a Choice can tell the query
heads of one KV head apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cokv.cache.prefill import Prefill
from cokv.model.shape import Shape
from cokv.types import CokvError, IntArray, Selection


@dataclass(frozen=True, eq=False)
class HeadMask:
    """Which set of kept positions each head has. Rows of one game share the `patterns` tensor itself.

    One column of `which` per KV head; or one per query head, and then a KV head's storage holds what any of its query
    heads keeps.
    """

    patterns: torch.Tensor  # bool [patterns, seq_len], on the CPU
    which: IntArray  # [num_layers, num_kv_heads or num_heads], row of `patterns`

    @property
    def seq_len(self) -> int:
        return int(self.patterns.shape[1])

    def total(self, num_kv_heads: int) -> int:
        """KV slots kept over all (layer, KV head)."""
        if self.which.shape[1] == num_kv_heads:
            return int(self.patterns.sum(1).numpy()[self.which].sum())
        groups = self.which.reshape(len(self.which) * num_kv_heads, -1)
        used = np.zeros((len(groups), len(self.patterns)), dtype=np.bool_)
        np.put_along_axis(used, groups, True, axis=1)
        sets, inverse = np.unique(used, axis=0, return_inverse=True)
        unions = torch.from_numpy(sets).float() @ self.patterns.float() > 0  # kept by any query head of a group
        return int(unions.sum(1).numpy()[inverse].sum())

    def selection(self, num_kv_heads: int) -> Selection:
        """The same row in full; query heads that differ within a group cannot be written so."""
        groups = self.which.reshape(len(self.which), num_kv_heads, -1)
        if (groups != groups[..., :1]).any():
            raise CokvError(
                "query heads of one KV head keep different positions, which only the shared ways can decode; "
                "choose way='shared', 'trie' or 'auto'"
            )
        return Selection.from_mask(self.patterns[torch.from_numpy(groups[..., 0])])


Kept = Selection | HeadMask


def kept_tokens(row: Kept, shape: Shape) -> int:
    """KV slots that a row keeps over all (layer, KV head)."""
    return row.total if isinstance(row, Selection) else row.total(shape.num_kv_heads)


@dataclass(frozen=True, eq=False)
class Table:
    """Many rows over one prompt. `sizes`: positions in each pattern."""

    patterns: torch.Tensor  # bool [patterns, seq_len], on the CPU
    which: IntArray  # [rows, num_layers, heads], heads as in Choice

    @cached_property
    def sizes(self) -> IntArray:
        return np.asarray(self.patterns.sum(1).numpy(), dtype=np.int64)

    @cached_property
    def keys(self) -> IntArray:
        """[rows, num_layers]: equal numbers in a layer mean equal masks there."""
        rows, layers, _ = self.which.shape
        keys = np.empty((rows, layers), dtype=np.int64)
        for layer in range(layers):
            packed = np.ascontiguousarray(self.which[:, layer]).view(np.dtype((np.void, 8 * self.which.shape[2])))
            keys[:, layer] = np.unique(packed[:, 0], return_inverse=True)[1].reshape(-1)
        return keys

    def order(self) -> IntArray:
        """Rows so that those with the longest common way up from the bottom layer stand together."""
        return np.lexsort(self.keys.T[::-1]).astype(np.int64)

    def rows(self, chosen: IntArray) -> Table:
        return Table(self.patterns, self.which[chosen])

    def mask(self) -> torch.Tensor:
        """bool [rows, num_layers, heads, seq_len]."""
        return self.patterns[torch.from_numpy(self.which)]

    @classmethod
    def of(cls, prefill: Prefill, rows: Sequence[Kept]) -> Table:
        """Equal sets of positions become one pattern, whichever rows, layers and heads they are in."""
        shape, known = prefill.shape, _Patterns(prefill.seq_len)
        fine = shape.group_size > 1 and any(
            isinstance(row, HeadMask) and row.which.shape[1] == shape.num_heads for row in rows
        )
        heads = shape.num_heads if fine else shape.num_kv_heads
        which = np.empty((len(rows), shape.num_layers, heads), dtype=np.int64)
        for place, row in enumerate(rows):
            check_kept(row, prefill)
            mine = known.choice(row) if isinstance(row, HeadMask) else known.selection(row)
            which[place] = mine if mine.shape[1] == heads else mine.repeat(shape.group_size, axis=1)
        return cls(known.tensor(), which)


class _Patterns:
    """Collects distinct sets of positions, numbered as they come."""

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self.number: dict[bytes, int] = {}
        self.positions: list[torch.Tensor] = []
        self.shared: dict[int, IntArray] = {}

    def add(self, positions: torch.Tensor) -> int:
        key = positions.numpy().tobytes()
        if key not in self.number:
            self.number[key] = len(self.positions)
            self.positions.append(positions)
        return self.number[key]

    def selection(self, row: Selection) -> IntArray:
        made = [[self.add(row.head(i, h)) for h in range(row.num_kv_heads)] for i in range(row.num_layers)]
        return np.array(made, dtype=np.int64)

    def choice(self, row: HeadMask) -> IntArray:
        own = self.shared.get(id(row.patterns))  # alive as long as the rows are
        if own is None:
            own = np.array([self.add(p.nonzero()[:, 0]) for p in row.patterns], dtype=np.int64)
            self.shared[id(row.patterns)] = own
        return own[row.which]

    def tensor(self) -> torch.Tensor:
        made = torch.zeros(len(self.positions), self.seq_len, dtype=torch.bool)
        for row, positions in zip(made, self.positions, strict=True):
            row[positions] = True
        return made


def check_kept(row: Kept, prefill: Prefill) -> None:
    """A row must be made for a prompt of this length and a model of this shape."""
    shape = prefill.shape
    counts = row.counts.shape if isinstance(row, Selection) else row.which.shape
    widths = {shape.num_kv_heads} | ({shape.num_heads} if isinstance(row, HeadMask) else set())
    if counts[0] != shape.num_layers or counts[1] not in widths or row.seq_len != prefill.seq_len:
        raise CokvError(
            f"selection is for {tuple(counts)} heads and {row.seq_len} tokens, but the prefill has "
            f"{(shape.num_layers, shape.num_kv_heads)} heads and {prefill.seq_len} tokens; select on this prefill"
        )
