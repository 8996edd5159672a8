"""Compact rows: a few shared patterns of kept positions, and for every head the index of its pattern.

A coalition of 256 heads on 8192 tokens takes 256 small numbers as a `HeadMask`, and 16 MB as a Selection. A `RowTable`
holds many rows, HeadMasks and Selections, in this form for the shared and trie ways. Only a HeadMask can give the query
heads of one KV head different patterns.
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
    """The pattern of kept positions of each head. Rows of one game share the `patterns` tensor itself.

    `which` has one column per KV head, or one per query head; then a KV head stores what any of its query heads keeps.
    """

    patterns: torch.Tensor  # bool [patterns, seq_len], on the CPU
    which: IntArray  # [num_layers, num_kv_heads or num_heads], rows of `patterns`

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
        """The same row as a Selection; CokvError where query heads of one KV head keep different positions."""
        groups = self.which.reshape(len(self.which), num_kv_heads, -1)
        if (groups != groups[..., :1]).any():
            raise CokvError(
                "query heads of one KV head keep different positions, which only the shared ways can decode; "
                "decode with way='shared', 'trie' or 'auto'"
            )
        return Selection.from_mask(self.patterns[torch.from_numpy(groups[..., 0])])


Kept = Selection | HeadMask


def kept_tokens(row: Kept, shape: Shape) -> int:
    """KV slots that a row keeps, summed over all (layer, KV head)."""
    return row.total if isinstance(row, Selection) else row.total(shape.num_kv_heads)


@dataclass(frozen=True, eq=False)
class RowTable:
    """Many rows over one prompt, with one table of patterns."""

    patterns: torch.Tensor  # bool [patterns, seq_len], on the CPU
    which: IntArray  # [rows, num_layers, heads], heads as in HeadMask

    @cached_property
    def sizes(self) -> IntArray:
        """Positions in each pattern, [patterns]."""
        return np.asarray(self.patterns.sum(1).numpy(), dtype=np.int64)

    @cached_property
    def keys(self) -> IntArray:
        """[rows, num_layers]: within a layer, equal numbers mean equal masks."""
        rows, layers, _ = self.which.shape
        keys = np.empty((rows, layers), dtype=np.int64)
        for layer in range(layers):
            packed = np.ascontiguousarray(self.which[:, layer]).view(np.dtype((np.void, 8 * self.which.shape[2])))
            keys[:, layer] = np.unique(packed[:, 0], return_inverse=True)[1].reshape(-1)
        return keys

    def order(self) -> IntArray:
        """Row order that puts rows whose masks agree in the most bottom layers next to each other."""
        return np.lexsort(self.keys.T[::-1]).astype(np.int64)

    def mask(self) -> torch.Tensor:
        """bool [rows, num_layers, heads, seq_len]."""
        return self.patterns[torch.from_numpy(self.which)]

    @classmethod
    def of(cls, prefill: Prefill, rows: Sequence[Kept]) -> RowTable:
        """Equal sets of positions become one pattern, across rows, layers and heads."""
        shape, patterns = prefill.shape, _PatternIndex(prefill.seq_len)
        per_query_head = shape.group_size > 1 and any(
            isinstance(row, HeadMask) and row.which.shape[1] == shape.num_heads for row in rows
        )
        heads = shape.num_heads if per_query_head else shape.num_kv_heads
        which = np.empty((len(rows), shape.num_layers, heads), dtype=np.int64)
        for i, row in enumerate(rows):
            check_kept(row, prefill)
            ids = patterns.of_head_mask(row) if isinstance(row, HeadMask) else patterns.of_selection(row)
            which[i] = ids if ids.shape[1] == heads else ids.repeat(shape.group_size, axis=1)
        return cls(patterns.masks(), which)


class _PatternIndex:
    """Numbers distinct sets of positions in order of first occurrence."""

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self.number: dict[bytes, int] = {}
        self.positions: list[torch.Tensor] = []
        self.shared: dict[int, IntArray] = {}  # by id of a HeadMask's patterns, which the rows keep alive

    def add(self, positions: torch.Tensor) -> int:
        key = positions.numpy().tobytes()
        if key not in self.number:
            self.number[key] = len(self.positions)
            self.positions.append(positions)
        return self.number[key]

    def of_selection(self, row: Selection) -> IntArray:
        ids = [[self.add(row.head(i, h)) for h in range(row.num_kv_heads)] for i in range(row.num_layers)]
        return np.array(ids, dtype=np.int64)

    def of_head_mask(self, row: HeadMask) -> IntArray:
        ids = self.shared.get(id(row.patterns))
        if ids is None:
            ids = np.array([self.add(p.nonzero()[:, 0]) for p in row.patterns], dtype=np.int64)
            self.shared[id(row.patterns)] = ids
        return ids[row.which]

    def masks(self) -> torch.Tensor:
        """bool [patterns, seq_len]"""
        masks = torch.zeros(len(self.positions), self.seq_len, dtype=torch.bool)
        for mask, positions in zip(masks, self.positions, strict=True):
            mask[positions] = True
        return masks


def check_kept(row: Kept, prefill: Prefill) -> None:
    """Raises CokvError unless the row has the prompt's length and the model's shape."""
    shape = prefill.shape
    counts = row.counts.shape if isinstance(row, Selection) else row.which.shape
    widths = {shape.num_kv_heads} | ({shape.num_heads} if isinstance(row, HeadMask) else set())
    if counts[0] != shape.num_layers or counts[1] not in widths or row.seq_len != prefill.seq_len:
        raise CokvError(
            f"selection is for {tuple(counts)} heads and {row.seq_len} tokens, but the prefill has "
            f"{(shape.num_layers, shape.num_kv_heads)} heads and {prefill.seq_len} tokens; select on this prefill"
        )
