"""Rows whose older keys have lost some channels, the same ones in all tokens of a head; newer tokens are whole.

Two flat stores: what was pruned, which never changes, and the newest tokens of the prompt with all that is read later.
Every head of the store keeps as many channels as the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.cache.attention.backend import Attend, softcap_of, with_sinks
from cokv.cache.policies.prune_channels import PruneChannels, index_dtype
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.chunk import Parts, attend_chunk
from cokv.cache.storage.ragged import RaggedStorage, merge_attention_states
from cokv.cache.storage.rows import Kept, MemoryUsage, gathered, segments_of


class PrunedRows:
    """See `Rows`. All rows of one store have the same policy."""

    def __init__(
        self, views: Sequence[PrefillLayer], kept: Kept, policies: Sequence[PruneChannels], slack: int, backend: Attend
    ) -> None:
        policy = policies[0]
        self.heads, _, dim = views[0].keys.shape
        keys, values, lengths = gathered(views, kept)
        k, v = (part.split(lengths.tolist()) for part in (keys, values))  # by segment
        if policy.dropped(dim) == 0:
            self.channels = torch.empty(len(k), 0, dtype=index_dtype(dim), device=keys.device)
            older = torch.zeros_like(lengths)
        else:
            query_norms = torch.cat([policy.query_norms(view) for view in views])
            if len(views) == 1:
                query_norms = query_norms.repeat(len(kept), 1)
            key_norms = torch.stack([part.float().square().sum(dim=0) for part in k])
            self.channels = policy.channels(query_norms, key_norms).to(index_dtype(dim))  # [segments, kept channels]
            older = (lengths - policy.recent).clamp(min=0)
        cut = older.tolist()
        self.older = RaggedStorage(
            torch.cat([part[:n, c] for part, n, c in zip(k, cut, self.channels.long(), strict=True)]),
            torch.cat([part[:n] for part, n in zip(v, cut, strict=True)]),
            older,
            0,
            backend,
        )
        whole = [torch.cat([p[n:] for p, n in zip(part, cut, strict=True)]) for part in (k, v)]
        self.newer = RaggedStorage(whole[0], whole[1], lengths - older, slack, backend)

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        rows, num_heads, t, dim = queries.shape
        if t > 1:
            slots = len(self.older.k) + len(self.newer.k)
            out = attend_chunk(
                lambda some: self._stored(some, scaling),
                slots,
                queries,
                keys,
                values,
                scaling,
                sinks,
                softcap_of(self.newer.backend),
            )
            self._append(keys, values)
            return out
        grouped = queries.reshape(rows * self.heads, num_heads // self.heads, dim)
        newest = self.newer.append_and_attend(grouped, keys.reshape(-1, dim), values.reshape(-1, dim), scaling)
        out, _ = with_sinks(*merge_attention_states([newest, self._attend_older(grouped, scaling)]), sinks)
        return out.view(rows, num_heads, 1, dim)

    def _stored(self, queries: torch.Tensor, scaling: float) -> Parts:
        return [self.newer.attend(queries, scaling), self._attend_older(queries, scaling)]

    def _attend_older(self, queries: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        """By the channels that its keys still have."""
        index = self.channels.long()[:, None].expand(-1, queries.shape[1], -1)
        return self.older.attend(queries.gather(2, index), scaling)

    def _append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys, values [rows, num_kv_heads, t, head_dim]"""
        for k, v in zip(keys.unbind(2), values.unbind(2), strict=True):
            self.newer.append(k.reshape(-1, k.shape[-1]), v.reshape(-1, v.shape[-1]))

    def select(self, rows: torch.Tensor, copies: bool) -> None:
        segments = segments_of(rows.to(self.channels.device), self.heads)
        for store in (self.older, self.newer):
            (store.copy_segments if copies else store.keep_segments)(segments)
        self.channels = self.channels[segments]

    can_crop = True

    def crop(self, count: int) -> None:
        self.newer.drop_newest(count)

    def held(self) -> list[MemoryUsage]:
        stores = (self.older, self.newer)
        slots = self.older.lengths + self.newer.lengths
        sizes = sum((s.lengths * s.token_bytes for s in stores), torch.full_like(slots, self._index_bytes))
        by_row = [part.view(-1, self.heads).sum(1).tolist() for part in (slots, sizes)]
        return [MemoryUsage(n, m) for n, m in zip(*by_row, strict=True)]

    @property
    def _index_bytes(self) -> int:
        """Per segment."""
        return self.channels.shape[1] * self.channels.element_size()

    @property
    def storage_bytes(self) -> int:
        return self.older.storage_bytes + self.newer.storage_bytes + len(self.channels) * self._index_bytes
