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
    from cokv.model.observe import LayerView


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
        sinks = None if layer.sinks is None else layer.sinks.view(num_kv_heads, -1)[heads]
        yield _softmax(queries[heads], layer.keys[heads].to(dtype), layer.scaling, layer.softcap, sinks)


def view_attention(view: LayerView, first: int = 0) -> Iterator[tuple[int, int, torch.Tensor]]:
    """`causal_attention` of the queries from position `first` on, as the layer computes it."""
    return causal_attention(view.queries, view.keys, view.scaling, first, view.softcap, view.sinks)


def causal_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scaling: float,
    first: int = 0,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Weights of the queries from position `first` on, one KV head after the other, in blocks: (KV head, the block's
    first row, float32 [group_size, rows, columns]).

    queries: [num_heads, seq_len, head_dim], or only those of the last tokens; keys: [num_kv_heads, seq_len, head_dim].
    A block's columns end with its last row, since later ones are zero by causality. softcap, sinks [num_heads]: see
    LayerView; the weights of a query over all tokens then sum to less than 1.
    """
    num_kv_heads, seq_len, head_dim = keys.shape
    grouped = queries.reshape(num_kv_heads, -1, queries.shape[1], head_dim)
    before = seq_len - queries.shape[1]
    by_head = None if sinks is None else sinks.view(num_kv_heads, -1)
    step = at_once(grouped.shape[1] * seq_len, queries.device)
    for head in range(num_kv_heads):
        own = None if by_head is None else by_head[head]
        head_keys = keys[head].float()
        for row in range(max(first, before), seq_len, step):
            end = min(row + step, seq_len)
            block = grouped[head, :, row - before : end - before]
            yield head, row, _softmax(block, head_keys[:end], scaling, softcap, own)


def _softmax(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """queries [..., group_size, rows, head_dim], those of the last `rows` keys, keys [..., columns, head_dim] and sinks
    [..., group_size] -> [..., group_size, rows, columns], in the dtype of the keys.
    """
    rows, columns = queries.shape[-2], keys.shape[-2]
    logits = queries.to(keys.dtype).flatten(-3, -2) @ keys.transpose(-2, -1)
    logits = logits.mul_(scaling).unflatten(-2, (-1, rows))
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    future = torch.ones(rows, rows, dtype=torch.bool, device=keys.device).triu(1)
    logits[..., columns - rows :].masked_fill_(future, -torch.inf)
    if sinks is None:
        return logits.softmax(dim=-1, dtype=torch.float32).to(keys.dtype)
    extra = sinks.to(logits.dtype)[..., None, None].expand(*logits.shape[:-1], 1)
    return torch.cat([logits, extra], dim=-1).softmax(dim=-1, dtype=torch.float32)[..., :-1].to(keys.dtype)
