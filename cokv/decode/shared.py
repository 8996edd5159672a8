"""The shared way to decode many rows: one copy of the prompt's KV, a mask per (row, head), and new tokens per row.

The prompt's K and V are read once per step for all rows, in one matrix product per KV head. Equal to the ragged way by
test; cheaper when rows keep most of the prompt (coalitions), costlier when they keep little. Every row is computed
separately; trie.py computes what rows have in common once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cokv.cache.attention.reference import capped
from cokv.cache.cache import keep_rows, repeated
from cokv.cache.compat import AnsweringCache
from cokv.cache.prefill import Prefill, PrefillLayer
from cokv.decode.head_mask import Kept, check_kept
from cokv.decode.prompt_layer import SharingLayer
from cokv.types import Selection


class SharedLayer(SharingLayer):
    """One layer of one prompt, many rows. `kept`: bool [rows, num_kv_heads or num_heads, seq_len]."""

    def __init__(self, source: PrefillLayer, kept: torch.Tensor, new_tokens: int) -> None:
        super().__init__(source.layer_idx)
        self.lazy_initialization(source.keys, source.values)
        self.prompt_keys, self.prompt_values, self.kept = source.keys, source.values, kept
        num_kv_heads, self.tokens_seen, head_dim = source.keys.shape
        shape = (kept.shape[0], num_kv_heads, new_tokens, head_dim)
        self.tail_keys = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.tail_values = torch.empty_like(self.tail_keys)
        self.used, self.softcap = 0, source.softcap

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """queries: [rows, num_heads, t, head_dim]; causal among the new tokens."""
        rows, num_heads, t, dim = queries.shape
        heads, seq_len, _ = self.prompt_keys.shape
        group, columns, used = num_heads // heads, self.kept.shape[1] // heads, self.used + t
        self.tail_keys[:, :, self.used : used], self.tail_values[:, :, self.used : used] = keys, values
        wide = torch.promote_types(queries.dtype, torch.float32)

        grouped = queries.view(rows, heads, group, t, dim)
        by_head = grouped.permute(1, 0, 2, 3, 4).reshape(heads, rows * group * t, dim)
        old = by_head.to(wide) @ self.prompt_keys.to(wide).transpose(1, 2) * scaling
        old = capped(old, self.softcap).view(heads, rows, group * t, seq_len)
        visible = self.kept.view(rows, heads, columns, 1, seq_len).transpose(0, 1)
        old.view(heads, rows, columns, -1, seq_len).masked_fill_(~visible, -torch.inf)
        tail_keys, tail_values = self.tail_keys[:, :, None, :used], self.tail_values[:, :, None, :used]
        new = capped(grouped.to(wide) @ tail_keys.to(wide).transpose(-1, -2) * scaling, self.softcap)
        if t > 1:
            causal = torch.ones(t, used, dtype=torch.bool, device=new.device).tril(used - t)
            new = new.masked_fill(~causal, -torch.inf)
        new = new.permute(1, 0, 2, 3, 4).reshape(heads, rows, group * t, used)
        logits = torch.cat([old, new], dim=-1)
        if sinks is not None:
            last = sinks.to(wide).view(heads, 1, group, 1, 1).expand(-1, rows, -1, t, -1)
            logits = torch.cat([logits, last.reshape(heads, rows, group * t, 1)], dim=-1)
        weights = logits.softmax(-1)[..., : seq_len + used].to(values.dtype)

        out = (weights[..., :seq_len].reshape(heads, rows * group * t, seq_len) @ self.prompt_values).view(
            heads, rows, group, t, dim
        )
        tail_out = weights[..., seq_len:].view(heads, rows, group, t, used).permute(1, 0, 2, 3, 4) @ tail_values
        self.used = used
        return (out.permute(1, 0, 2, 3, 4) + tail_out).reshape(rows, num_heads, t, dim)

    @staticmethod
    def row_bytes(prefill: Prefill, new_tokens: int, queries: int) -> int:
        """Upper bound of one row's memory: its mask and new tokens in every layer, and one layer's attention weights
        for `queries` tokens.

        Three float32 copies of the weights are alive at once: scores, scaled scores, softmax.
        """
        shape = prefill.shape
        all_layers = shape.num_layers * shape.num_kv_heads * (prefill.seq_len + new_tokens * prefill.token_bytes)
        return all_layers + 12 * shape.num_heads * queries * (prefill.seq_len + new_tokens)

    def keep_rows(self, rows: torch.Tensor) -> None:
        rows = rows.to(self.device)
        self.kept, self.tail_keys, self.tail_values = self.kept[rows], self.tail_keys[rows], self.tail_values[rows]


class SharedCache(AnsweringCache):
    """Rows over one Prefill, for at most `new_tokens` further tokens."""

    def __init__(self, prefill: Prefill, rows: Sequence[Kept], new_tokens: int) -> None:
        for row in rows:
            check_kept(row, prefill)
        masks = _masks(prefill, rows)
        layers: list[Any] = [None] * prefill.shape.num_hidden_layers
        for i, source in enumerate(prefill.layers):
            layers[source.layer_idx] = SharedLayer(source, masks[:, i].to(source.keys.device), new_tokens)
        for i, sliding in prefill.sliding.items():
            layers[i] = repeated(sliding, len(rows))
        super().__init__(layers, prefill.shape.num_heads, prefill.shape.softcap)

    def keep_rows(self, rows: torch.Tensor) -> None:
        keep_rows(self, rows)


def _masks(prefill: Prefill, rows: Sequence[Kept]) -> torch.Tensor:
    """bool [rows, num_layers, heads, seq_len]; heads are query heads where any row has a mask per query head."""
    masks = [r.mask() if isinstance(r, Selection) else r.patterns[torch.from_numpy(r.which)] for r in rows]
    if len({mask.shape[1] for mask in masks}) > 1:
        heads = prefill.shape.num_heads
        masks = [mask.repeat_interleave(heads // mask.shape[1], 1) for mask in masks]
    return torch.stack(masks)
