"""Allocation by marginal gain: curves of retained importance, their concave hulls, and a greedy split.

LU-KV, arXiv 2602.08585 (global combinatorial optimization). For each KV head, the importance of its tokens, in the
order in which a scorer keeps them, gives a curve: the importance that k slots retain. The split maximizes the sum over
heads under a total. For concave curves, greedy by marginal gain is exact; other curves are replaced by their concave
hulls, whose slopes are the isotonic (falling) regression of the increments, computed by pooling adjacent violators. The
hull's optimum is an upper bound of the true one, reached by a split that ends on corners of the hulls.

Knows neither models nor prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cokv.types import FloatArray, IntArray

LEVELS = 99  # rows of a curve: 1, 2, ... 99 percent of all slots


def isotonic_decreasing(increments: FloatArray) -> FloatArray:
    """Slopes of the concave hull of the curve with these increments, their non-increasing isotonic regression: [n]."""
    means: list[float] = []
    sizes: list[int] = []
    for value in np.asarray(increments, dtype=np.float64).tolist():
        mean, size = value, 1
        while means and means[-1] < mean:  # a block that would rise is pooled with the one before it
            before, count = means.pop(), sizes.pop()
            mean = (before * count + mean * size) / (count + size)
            size += count
        means.append(mean)
        sizes.append(size)
    return np.repeat(np.array(means, dtype=np.float64), sizes)


def greedy(slopes: Sequence[FloatArray], total: int) -> IntArray:
    """How many slots each head gets, [heads], when `total` slots (at most all) go to the steepest slopes.

    slopes: one falling array per head. Of equal slopes, the lower head's goes first.
    """
    heads = np.repeat(np.arange(len(slopes)), [len(s) for s in slopes])
    order = np.argsort(-np.concatenate(slopes), kind="stable")
    return np.bincount(heads[order[: max(total, 0)]], minlength=len(slopes)).astype(np.int64)


def retained(increments: Sequence[FloatArray], slots: IntArray) -> float:
    """The importance that a split retains: the sum of every head's first increments."""
    return float(sum(head[:count].sum() for head, count in zip(increments, slots.tolist(), strict=True)))


def keep_ratios(importance: FloatArray) -> FloatArray:
    """Each head's share of its tokens at 1, 2, ... 99 percent of all slots: [99, num_layers, num_kv_heads].

    importance: [num_layers, num_kv_heads, seq_len] of one prompt, tokens in the order in which the scorer keeps them. A
    model's curves are the mean over prompts.
    """
    num_layers, num_kv_heads, seq_len = importance.shape
    slopes = [isotonic_decreasing(head) for head in importance.reshape(-1, seq_len)]
    heads = np.repeat(np.arange(len(slopes)), seq_len)
    order = heads[np.argsort(-np.concatenate(slopes), kind="stable")]  # the head that gets each successive slot
    ratios = np.empty((LEVELS, num_layers, num_kv_heads))
    for level in range(LEVELS):
        owners = order[: round(len(order) * (level + 1) / (LEVELS + 1))]
        ratios[level] = np.bincount(owners, minlength=len(slopes)).reshape(num_layers, num_kv_heads) / seq_len
    return ratios
