"""Which rows are in the same state: the trie of masks and generated tokens, as NumPy arrays on the host.

At a layer's input two rows are in the same state, one *node*, when they have generated the same tokens and their masks
agree in all layers below. Level 0 is the first layer's input (tokens alone); level i + 1 is the output of
full-attention layer i. Knows no tensors and no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cokv.types import IntArray


def numbered(labels: IntArray) -> IntArray:
    """Labels renumbered 0, 1, ... in order of first occurrence, so that equal partitions get equal numbers."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def refined(nodes: IntArray, labels: IntArray) -> IntArray:
    """Nodes split by another label of each row; labels are not negative."""
    return numbered(nodes * (int(labels.max(initial=0)) + 1) + labels)


def representatives(nodes: IntArray) -> IntArray:
    """The first row of every node, [nodes]; nodes are numbered in order of first occurrence."""
    return np.unique(nodes, return_index=True)[1].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Partition:
    """The node of every active row, at every level: `levels[i]` is int64 [rows]."""

    rows: IntArray  # [rows] indices of the active rows in the batch, ascending
    levels: list[IntArray]  # num_layers + 1

    @classmethod
    def of(cls, rows: IntArray, histories: IntArray, keys: IntArray) -> Partition:
        """histories [rows]: equal for rows with the same tokens. keys [rows, num_layers]: equal for the same mask."""
        levels = [numbered(histories)]
        for layer in range(keys.shape[1]):
            levels.append(refined(levels[-1], keys[:, layer]))
        return cls(rows, levels)

    def nodes(self, level: int) -> int:
        return int(self.levels[level].max(initial=-1)) + 1

    def parents(self, layer: int) -> IntArray:
        """For every node at the layer's output, its node at the input: [nodes(layer + 1)]."""
        return self.levels[layer][representatives(self.levels[layer + 1])]

    def children(self, layer: int) -> IntArray:
        """For every node at the layer's input, its first node at the output: [nodes(layer)]."""
        return self.levels[layer + 1][representatives(self.levels[layer])]

    def moved(self, before: Partition, level: int) -> IntArray:
        """For every node, the node of an earlier, coarser partition that contains its rows: [nodes(level)]."""
        rows = self.rows[representatives(self.levels[level])]
        return before.levels[level][np.searchsorted(before.rows, rows)]


@dataclass(frozen=True, eq=False)
class Products:
    """One layer's attention over the prompt as a few matrix products, one per bucket of patterns.

    A KV head's output depends on the query and on the positions that this head keeps, not on the other heads' masks:
    each distinct (head, input node, pattern) is one entry, computed once. Each bucket is padded to the same number of
    entries in every KV head.
    """

    queries: IntArray  # [entries] index into the queries, flattened from [num_kv_heads, input nodes, columns]
    pattern: IntArray  # [entries] pattern of each entry; any pattern of the bucket for padding
    widths: list[int]  # entries per KV head of every bucket; a bucket's entries are [num_kv_heads, width]
    entry: IntArray  # [output nodes, num_kv_heads, columns] the entry that computes each output


def products(parents: IntArray, which: IntArray, nodes: int, bucket: IntArray) -> Products:
    """parents [output nodes]; which [output nodes, num_kv_heads, columns] patterns; `nodes`: number of input nodes.

    `columns` is 1, or group_size where each query head has its own mask. bucket [patterns]: the bucket that computes
    each pattern.
    """
    _, heads, columns = which.shape
    patterns, buckets = len(bucket), int(bucket.max()) + 1
    query = parents[:, None, None] * columns + np.arange(columns)
    bucket_head = bucket[which] * heads + np.arange(heads)[:, None]
    label = (bucket_head * (nodes * columns) + query) * patterns + which
    distinct, inverse = np.unique(label, return_inverse=True)
    owner = distinct // (nodes * columns * patterns)  # bucket * heads + head
    counts = np.bincount(owner, minlength=buckets * heads)
    widths = counts.reshape(buckets, heads).max(axis=1)
    offsets = (np.cumsum(widths) - widths) * heads
    starts = np.repeat(offsets, heads) + np.tile(np.arange(heads), buckets) * np.repeat(widths, heads)
    slot = starts[owner] + np.arange(len(distinct)) - (np.cumsum(counts) - counts)[owner]

    queries = np.repeat(np.tile(np.arange(heads), buckets) * (nodes * columns), np.repeat(widths, heads))
    first = np.array([np.flatnonzero(bucket == b)[0] for b in range(buckets)], dtype=np.int64)
    pattern = np.repeat(first, widths * heads)
    queries[slot] = owner % heads * (nodes * columns) + distinct // patterns % (nodes * columns)
    pattern[slot] = distinct % patterns
    return Products(queries, pattern, widths.tolist(), slot[inverse.reshape(which.shape)])
