"""Causal softmax attention in blocks that fit in memory, never seq_len x seq_len of a head at once.

The attention weights that scorers and profilers use. Knows nothing of methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from cokv.methods.scorers.blocks import at_once
from cokv.types import CokvError

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


def window_attention(layer: PrefillLayer, window: int, dtype: torch.dtype = torch.float32) -> Iterator[torch.Tensor]:
    """Weights of the last `window` prompt queries (or all, if fewer): [heads, group_size, window, seq_len], a few KV
    heads at a time, in order.

    dtype: of the logits and of the weights; the softmax between them is float32.
    """
    num_kv_heads, seq_len, head_dim = layer.keys.shape
    window = min(window, seq_len)
    stored = layer.window_queries.shape[1]
    if stored < window:
        raise CokvError(
            f"the prefill holds {stored} window queries, {window} are needed; prefill with window_size={window}"
        )
    queries = layer.window_queries[:, stored - window :].reshape(num_kv_heads, -1, window, head_dim)
    step = at_once(queries.shape[1] * window * seq_len, queries.device)
    for head in range(0, num_kv_heads, step):
        heads = slice(head, head + step)
        yield _softmax(queries[heads], layer.keys[heads].to(dtype), layer.scaling)


def causal_attention(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, first: int = 0
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Weights of the queries from position `first` on, one KV head after the other, in blocks: (KV head, the block's
    first row, float32 [group_size, rows, columns]).

    queries: [num_heads, seq_len, head_dim], or only those of the last tokens; keys: [num_kv_heads, seq_len, head_dim].
    A block's columns end with its last row, since later ones are zero by causality.
    """
    num_kv_heads, seq_len, head_dim = keys.shape
    grouped = queries.reshape(num_kv_heads, -1, queries.shape[1], head_dim)
    before = seq_len - queries.shape[1]
    step = at_once(grouped.shape[1] * seq_len, queries.device)
    for head in range(num_kv_heads):
        head_keys = keys[head].float()
        for row in range(max(first, before), seq_len, step):
            end = min(row + step, seq_len)
            yield head, row, _softmax(grouped[head, :, row - before : end - before], head_keys[:end], scaling)


def _softmax(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """queries [..., group_size, rows, head_dim], those of the last `rows` keys, and keys [..., columns, head_dim] ->
    [..., group_size, rows, columns], in the dtype of the keys.
    """
    rows, columns = queries.shape[-2], keys.shape[-2]
    logits = queries.to(keys.dtype).flatten(-3, -2) @ keys.transpose(-2, -1)
    logits = logits.mul_(scaling).unflatten(-2, (-1, rows))
    future = torch.ones(rows, rows, dtype=torch.bool, device=keys.device).triu(1)
    logits[..., columns - rows :].masked_fill_(future, -torch.inf)
    return logits.softmax(dim=-1, dtype=torch.float32).to(keys.dtype)
