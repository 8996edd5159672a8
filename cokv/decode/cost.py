"""What one decoding step of many rows costs in each way, counted: bytes moved and operations done.

A count, not a measurement: it decides between ways that differ several times over. One number comes of it, bytes plus
operations / BALANCE. Counted for the first step, when all rows have the same tokens; later steps share less.

    ragged  each row: weights' operations; its own K and V, gathered and read
    shared  each row: weights' operations; logits over the whole prompt for every head, K and V once for all
    trie    each node: weights' operations; logits over what is kept, once for every distinct query and set of positions
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cokv.cache.prefill import Prefill
from cokv.decode.head_mask import Table
from cokv.decode.partition import Partition, representatives
from cokv.decode.trie_layer import FEW

BALANCE = 8.0  # operations that take as long as moving one byte, in products of a few hundred rows
GATHERED = 5  # times a ragged K or V is moved: gathered beside its like (index, read, written), read; timed on a CPU
PASSES = 6  # times a float32 logit is moved: product, maximum, exponential, sum, product


@dataclass(frozen=True)
class Cost:
    """Of one step over all rows."""

    bytes: float
    operations: float

    @property
    def total(self) -> float:
        return self.bytes + self.operations / BALANCE


def costs(prefill: Prefill, table: Table, weights: int) -> dict[str, Cost]:
    """By way. `weights`: parameters of the model's decoder layers, which every row (or node) is multiplied with."""
    shape, rows, seq_len = prefill.shape, len(table.which), prefill.seq_len
    per_head = shape.num_heads // table.which.shape[2]  # query heads behind one column of the table
    held = prefill.token_bytes * shape.num_layers * shape.num_kv_heads * seq_len  # the prompt's K and V
    pair = 4 * shape.head_dim  # operations of one query on one position: logit and weighted sum

    kept = float(table.sizes[table.which].sum())  # over rows, layers and the table's heads
    stored = kept * shape.num_kv_heads / table.which.shape[2]
    everything = rows * shape.num_layers * shape.num_heads * seq_len
    nodes, logits = _shared_work(table)
    return {
        "ragged": Cost(
            GATHERED * prefill.token_bytes * stored + 4 * PASSES * kept * per_head,
            2 * weights * rows + pair * kept * per_head,
        ),
        "shared": Cost(held + 4 * PASSES * everything, 2 * weights * rows + pair * everything),
        "trie": Cost(
            held + 4 * PASSES * logits * per_head,
            2 * weights * nodes / shape.num_layers + pair * logits * per_head,
        ),
    }


def _shared_work(table: Table) -> tuple[int, float]:
    """Nodes over all layers, and logits over the table's heads that the trie forms for them."""
    rows = np.arange(len(table.which))
    partition = Partition.of(rows, np.zeros_like(rows), table.keys)
    nodes, logits = 0, 0.0
    for layer in range(table.which.shape[1]):
        nodes += partition.nodes(layer + 1)
        first = representatives(partition.levels[layer + 1])
        parents, which = partition.parents(layer), table.which[first, layer]  # [nodes], [nodes, heads]
        heads = np.arange(which.shape[1])
        label = (parents[:, None] * len(heads) + heads) * len(table.sizes) + which
        found = np.unique(label) % len(table.sizes)
        few = len(np.unique(which)) <= FEW
        logits += float(table.sizes[found].sum()) if few else float(len(found) * table.patterns.shape[1])
    return nodes, logits


def cheapest(prefill: Prefill, table: Table, weights: int) -> str:
    """The way with the least total; query heads masked one by one cannot be ragged."""
    found = costs(prefill, table, weights)
    if table.which.shape[2] != prefill.shape.num_kv_heads:
        del found["ragged"]
    return min(found, key=lambda way: found[way].total)
