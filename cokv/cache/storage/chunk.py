"""Several new tokens at once: attention over what is stored, merged with causal attention among them.

A few queries at a time, so that a long chunk's logits take no more memory than a short one's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from cokv.cache.attention.backend import with_sinks
from cokv.cache.attention.reference import capped
from cokv.cache.storage.ragged import merge_attention_states

LOGITS = 1 << 24  # numbers at a time, in float32 64 MiB, of which about three copies are alive
LEAST = 16  # queries at a time, whatever that takes: less and each would read what is stored nearly alone

Parts = list[tuple[torch.Tensor, torch.Tensor]]


def attend_chunk(
    stored: Callable[[torch.Tensor], Parts],
    slots: int,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Queries [rows, num_heads, t, head_dim] over stored tokens and the t new ones, keys and values [rows,
    num_kv_heads, t, head_dim]; output as queries.

    `stored`: outputs and log-sum-exps of queries [segments, rows, head_dim] over the stored tokens, in any number of
    parts; these are `slots` at most, over all segments. sinks, softcap: see backend.py.
    """
    (rows, num_heads, t, dim), heads = queries.shape, keys.shape[1]
    group, wide = num_heads // heads, torch.promote_types(queries.dtype, torch.float32)
    block = max(LOGITS // (group * (slots + rows * heads * t)), LEAST)
    out = torch.empty_like(queries)
    for start in range(0, t, block):
        some = slice(start, start + block)
        block_queries = queries[:, :, some].reshape(rows, heads, group, -1, dim).to(wide)
        grouped = block_queries.flatten(0, 1).flatten(1, 2)
        end = start + block_queries.shape[3]
        new, lse = among_new(block_queries, keys[:, :, :end], values[:, :, :end], scaling, softcap)
        parts = [*stored(grouped), (new.view_as(grouped), lse.reshape(grouped.shape[:2]))]
        merged = merge_attention_states(parts)
        by_token = None if sinks is None else sinks.repeat_interleave(block_queries.shape[3])
        out[:, :, some] = with_sinks(*merged, by_token)[0].view(rows, num_heads, -1, dim)
    return out


def among_new(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, softcap: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention of the last t of n new tokens: output as queries, log-sum-exp [rows, heads, group_size, t].

    queries [rows, num_kv_heads, group_size, t, head_dim], wide; keys, values [rows, num_kv_heads, n, head_dim].
    """
    (rows, heads, group, t, dim), n = queries.shape, keys.shape[2]
    logits = queries.reshape(rows, heads, group * t, dim) @ keys.to(queries.dtype).transpose(-1, -2) * scaling
    logits = capped(logits, softcap)
    ahead = torch.ones(t, n, dtype=torch.bool, device=queries.device).triu(n - t + 1)
    logits.view(rows, heads, group, t, n).masked_fill_(ahead, -torch.inf)
    lse = logits.logsumexp(-1)
    out = logits.softmax(-1) @ values.to(queries.dtype)
    return out.view(queries.shape), lse.view(queries.shape[:-1])
