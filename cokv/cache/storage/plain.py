"""Rows whose tokens are stored as they are: they grow, or watchers keep each head at its size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.cache.attention import buckets, choose
from cokv.cache.attention.backend import Attend, Backend, softcap_of, with_sinks
from cokv.cache.attention.host_bounds import Bounds
from cokv.cache.attention.weighted import attend_even
from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.attention_evictor import AttentionEvictor
from cokv.cache.storage.chunk import attend_chunk
from cokv.cache.storage.compensated import CompensationToken
from cokv.cache.storage.evictors import OldestEvictor
from cokv.cache.storage.ragged import RaggedStorage, merge_attention_states
from cokv.cache.storage.rows import Kept, MemoryUsage, gathered, one_by_one, segments_of, view_of, without_unread
from cokv.cache.storage.watchers import Evictor, compensate, evict_by_attention, evict_oldest

Plain = Grow | EvictOldest | Compensate | EvictsByAttention
EVEN = (choose.attend, buckets.attend)  # backends in whose place segments of one length may be attended as a batch
NO_WAITING = ("cpu",)  # devices whose numbers can be read without waiting


class PlainRows:
    """See `Rows`. Segments are row-major: segment = row * num_kv_heads + kv_head."""

    def __init__(
        self, views: Sequence[PrefillLayer], kept: Kept, policies: Sequence[Plain], slack: int, backend: Attend
    ) -> None:
        self.heads = views[0].keys.shape[0]
        seq_lens = [view_of(views, row).keys.shape[1] for row in range(len(kept))]
        whole, kept = kept, without_unread(views, kept)
        stored = [
            [policy.kept(p, n) for p in row] if isinstance(policy, Compensate) else row
            for row, policy, n in zip(kept, policies, seq_lens, strict=True)
        ]
        self.store = RaggedStorage(*gathered(views, stored, slack), slack, backend, laid_out=True)
        self.bounds = Bounds([p.numel() for row in stored for p in row])
        self.kinds: torch.Tensor | None = None  # of the tokens that come next, where they are known: int64 [rows, t]
        self.evictors: list[Evictor] = [
            *evict_oldest(policies, self.bounds, seq_lens, self.heads, self.store.device),
            *compensate(policies, self.bounds, views, kept, stored),
        ]
        for rule in dict.fromkeys(p for p in policies if isinstance(p, EvictsByAttention)):
            self.evictors += evict_by_attention(rule, policies, self.bounds, views, whole, stored)

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rows that evict take the new tokens one by one, so that none ever attends more than its limit and one."""
        rows, num_heads, t, dim = queries.shape
        assert self.kinds is None or self.kinds.shape[1] >= t, self.kinds.shape
        if t > 1 and self.evictors:
            return one_by_one(self, queries, keys, values, scaling, sinks)
        if t > 1:
            return self._attend_chunk(queries, keys, values, scaling, sinks)
        grouped = queries.reshape(rows * self.heads, num_heads // self.heads, dim)
        if only := self._evictor_of_all():
            out = self._attend_full(only, grouped, keys.reshape(-1, dim), values.reshape(-1, dim), scaling, sinks)
            return out.view(rows, num_heads, 1, dim)
        if any(isinstance(evictor, CompensationToken) for evictor in self.evictors):
            grouped = grouped.to(torch.promote_types(queries.dtype, torch.float32))  # merged, then rounded once
        watching = [evictor for evictor in self.evictors if isinstance(evictor, AttentionEvictor)]
        needs_lse = len(watching) < len(self.evictors) or sinks is not None
        new = keys.reshape(-1, dim), values.reshape(-1, dim)
        kinds, width = self._next_kinds(), max((watcher.width for watcher in watching), default=0)
        out, lse, weights = self._step(grouped, *new, scaling, needs_lse, width, kinds)
        if lse is not None:
            cap = softcap_of(self.store.backend)
            for evictor in self.evictors:
                if isinstance(evictor, CompensationToken):
                    segments = evictor.segments
                    out[segments], lse[segments] = merge_attention_states(
                        [(out[segments], lse[segments]), evictor.attend(grouped[segments], scaling, cap)]
                    )
            stored, (out, lse) = lse, with_sinks(out, lse, sinks)
            if sinks is not None and weights is not None:
                weights *= (stored - lse).exp()[..., None]
        for watcher in watching:
            watcher.attended(self.store, grouped, lse, scaling, weights, kinds)
        return out.view(rows, num_heads, 1, dim).to(queries.dtype)

    def _step(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        needs_lse: bool,
        watched: int,
        kinds: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Stores one token per segment, then attends: queries [segments, group_size, head_dim]. Output, log-sum-exp
        and the weights [segments, group_size, watched] of the segments that are no longer; one of these two may be
        missing: the log-sum-exp where it is not needed, the weights where the backend gives none.
        """
        store, (places, grows) = self.store, self._places(kinds)
        weights = queries.new_empty(*queries.shape[:2], watched, dtype=torch.float32) if watched else None
        bounds = None if store.device.type in NO_WAITING else self.bounds.at_most
        result = store.step(queries, keys, values, scaling, places, grows, needs_lse, weights, bounds)
        if result is None:
            store.append(keys, values, places, grows, bounds)
        self.bounds.appended()
        return (*result, weights) if result else (*self._over_stored(queries, scaling), None)

    def _over_stored(self, queries: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Flat.attend`, without waiting for the device."""
        store = self.store
        if store.device.type in NO_WAITING:
            return store.attend(queries, scaling)
        stored = store.k, store.v, store.starts, store.lengths
        return store.backend(queries, *stored, scaling, self.bounds.at_most)

    def _places(self, kinds: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Where the next token of each segment goes and which get longer, as evictors say; none where all grow."""
        if not self.evictors:
            return None, None
        store, only = self.store, self.evictors[0]
        if isinstance(only, AttentionEvictor) and only.watches_all(store):
            only.begins(store, kinds)
            return only.hole, None
        if isinstance(only, OldestEvictor) and only.watches_all(store) and only.full(store):
            return only.next_places(store), torch.zeros_like(store.lengths, dtype=torch.bool)
        places, grows = store.lengths.clone(), torch.ones_like(store.lengths, dtype=torch.bool)
        for evictor in self.evictors:
            evictor.place(store, places, grows, kinds)
        return places, grows

    def _append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        places, grows = self._places(None)
        bounds = None if self.store.device.type in NO_WAITING else self.bounds.at_most
        self.store.append(keys, values, places, grows, bounds)
        self.bounds.appended()

    def _next_kinds(self) -> torch.Tensor | None:
        """Of the next token of every segment: int64 [segments], where they are known."""
        if self.kinds is None:
            return None
        kinds, self.kinds = self.kinds[:, 0].repeat_interleave(self.heads).to(self.store.device), self.kinds[:, 1:]
        return kinds

    @property
    def wants_weights(self) -> bool:
        """Whether a rule evicts by a step's attention weights."""
        return any(isinstance(evictor, AttentionEvictor) for evictor in self.evictors)

    def _evictor_of_all(self) -> AttentionEvictor | None:
        """The rule that drops a token of every segment with the next step, where all have one length: then a step has
        nothing to gather, to mask or to move.
        """
        store = self.store
        if len(self.evictors) != 1 or not isinstance(evictor := self.evictors[0], AttentionEvictor):
            return None
        whole = evictor.watches_all(store) and evictor.even and evictor.full
        attend = store.backend.attend if isinstance(store.backend, Backend) else store.backend
        return evictor if whole and attend in EVEN and store.fits and not store.gives_weights else None

    def _attend_full(
        self,
        evictor: AttentionEvictor,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Queries [segments, group_size, head_dim], keys and values [segments, head_dim]; output as queries."""
        store, segments, kinds = self.store, len(queries), self._next_kinds()
        evictor.begins(store, kinds)
        slots = store.starts + evictor.hole
        store.k.index_copy_(0, slots, keys)
        store.v.index_copy_(0, slots, values)
        stored_keys, stored_values = (part.view(segments, -1, part.shape[1]) for part in (store.k, store.v))
        softcap = softcap_of(store.backend)
        out, _, weights = attend_even(queries, stored_keys, stored_values, scaling, softcap, sinks)
        evictor.attended_full(weights, kinds)
        return out

    def _attend_chunk(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        dim, slots = queries.shape[3], len(self.store.k)
        out = attend_chunk(
            lambda some: [self._over_stored(some, scaling)],
            slots,
            queries,
            keys,
            values,
            scaling,
            sinks,
            softcap_of(self.store.backend),
        )
        for k, v in zip(keys.unbind(2), values.unbind(2), strict=True):
            self._append(k.reshape(-1, dim), v.reshape(-1, dim))
        return out

    def select(self, rows: torch.Tensor, copies: bool) -> None:
        segments = segments_of(rows.to(self.store.device), self.heads)
        before = self.store.lengths.numel()
        copies = copies or bool((rows.diff() < 0).any())  # segments lie in their order, as some backends want them
        (self.store.copy_segments if copies else self.store.keep_segments)(segments)
        self.bounds.select(segments_of(rows, self.heads).tolist())
        if not copies and any(isinstance(evictor, AttentionEvictor) for evictor in self.evictors):
            self.store.stale = True  # so that the rest lies close together again, see `_evictor_of_all`
        for evictor in self.evictors:
            place = torch.full((before,), -1, device=segments.device)
            place[evictor.segments] = torch.arange(len(evictor.segments), device=segments.device)
            picked = place[segments]
            evictor.select(picked[picked >= 0], (picked >= 0).nonzero()[:, 0])

    def replayed(self) -> None:
        """A step was made on the device alone, see decode/graphed.py: notes on the host what it did."""
        self.store.room -= 1
        self.bounds.appended()

    @property
    def can_crop(self) -> bool:
        """Rules by attention have noted what the newest tokens attended to, which no crop takes back."""
        return all(isinstance(evictor, OldestEvictor) and evictor.dropped_nothing for evictor in self.evictors)

    def crop(self, count: int) -> None:
        self.store.drop_newest(count)
        self.bounds.dropped(count)

    def held(self) -> list[MemoryUsage]:
        slots, tokens = self.store.lengths.clone(), self.store.lengths
        notes = torch.zeros_like(slots)
        for evictor in self.evictors:
            if isinstance(evictor, CompensationToken):
                slots[evictor.segments] += 1
            notes[evictor.segments] += evictor.segment_bytes()
        by_row = [part.view(-1, self.heads).sum(1).tolist() for part in (slots, tokens, notes)]
        return [MemoryUsage(n, m * self.store.token_bytes + more) for n, m, more in zip(*by_row, strict=True)]

    @property
    def storage_bytes(self) -> int:
        return self.store.storage_bytes + sum(w.segment_bytes() * len(w.segments) for w in self.evictors)
