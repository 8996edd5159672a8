"""Estimates the cost of one decoding step of many rows, for each way to decode: bytes moved and operations done.

An analytic count, not a measurement, accurate enough to choose between ways whose costs differ several times over. The
total is bytes + operations / BALANCE, for the first step, when all rows have the same tokens; later steps share less.

    ragged  per row: the weights' operations; its own K and V, gathered and read
    shared  per row: the weights' operations; logits over the whole prompt for every head; K and V read once for all
    trie    per node: the weights' operations; logits over the kept positions, once per distinct query and kept set
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cokv.cache.prefill import Prefill
from cokv.decode.head_mask import RowTable
from cokv.decode.partition import Partition, representatives
from cokv.decode.trie_layer import MAX_PRODUCTS

BALANCE = 8.0  # operations that take as long as moving one byte, in matrix products of a few hundred rows
GATHERED = 5  # times a ragged K or V is moved: gathered into buckets (index, read, write), then read; timed on a CPU
PASSES = 6  # times a float32 logit is moved: product, maximum, exponential, sum, product


@dataclass(frozen=True)
class Cost:
    """Cost of one step over all rows."""

    bytes: float
    operations: float

    @property
    def total(self) -> float:
        return self.bytes + self.operations / BALANCE


def costs(prefill: Prefill, table: RowTable, weights: int) -> dict[str, Cost]:
    """Cost of each way. `weights`: parameter count of the decoder layers, which multiply every row (or node)."""
    shape, rows, seq_len = prefill.shape, len(table.which), prefill.seq_len
    per_head = shape.num_heads // table.which.shape[2]  # query heads behind one column of the table
    prompt_bytes = prefill.token_bytes * shape.num_layers * shape.num_kv_heads * seq_len  # K and V
    logit_ops = 4 * shape.head_dim  # operations of one query on one position: logit and weighted sum

    kept = float(table.sizes[table.which].sum())  # over rows, layers and the table's heads
    kept_slots = kept * shape.num_kv_heads / table.which.shape[2]
    all_logits = rows * shape.num_layers * shape.num_heads * seq_len
    nodes, trie_logits = _trie_work(table)
    return {
        "ragged": Cost(
            GATHERED * prefill.token_bytes * kept_slots + 4 * PASSES * kept * per_head,
            2 * weights * rows + logit_ops * kept * per_head,
        ),
        "shared": Cost(prompt_bytes + 4 * PASSES * all_logits, 2 * weights * rows + logit_ops * all_logits),
        "trie": Cost(
            prompt_bytes + 4 * PASSES * trie_logits * per_head,
            2 * weights * nodes / shape.num_layers + logit_ops * trie_logits * per_head,
        ),
    }


def _trie_work(table: RowTable) -> tuple[int, float]:
    """Nodes summed over all layers, and the logits that the trie computes for them, over the table's heads."""
    rows = np.arange(len(table.which))
    partition = Partition.of(rows, np.zeros_like(rows), table.keys)
    nodes, logits = 0, 0.0
    for layer in range(table.which.shape[1]):
        nodes += partition.nodes(layer + 1)
        first = representatives(partition.levels[layer + 1])
        parents, which = partition.parents(layer), table.which[first, layer]  # [nodes], [nodes, heads]
        heads = np.arange(which.shape[1])
        label = (parents[:, None] * len(heads) + heads) * len(table.sizes) + which
        patterns = np.unique(label) % len(table.sizes)  # of each distinct (node, head, pattern)
        by_pattern = len(np.unique(which)) <= MAX_PRODUCTS  # else one masked product over the whole prompt
        logits += float(table.sizes[patterns].sum()) if by_pattern else float(len(patterns) * table.patterns.shape[1])
    return nodes, logits


def cheapest(prefill: Prefill, table: RowTable, weights: int) -> str:
    """The way with the lowest total cost; a table with a mask per query head rules out the ragged way."""
    by_way = costs(prefill, table, weights)
    if table.which.shape[2] != prefill.shape.num_kv_heads:
        del by_way["ragged"]
    return min(by_way, key=lambda way: by_way[way].total)
