"""Rows whose older tokens are packed into a few bits, group by group; the newest lie in a flat store.

Heads of one width have one pool. On a CPU attention reads codes as they are (cokv/cache/attention/packed.py); where
that cannot be had, a pool is unpacked for the backend, one layer at a time. What stays is packed. Where a group lies is
charged with it; what a store has beside per segment (starts, lengths, counts, bits) is in its storage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cokv.cache.attention import choose, packed
from cokv.cache.attention.backend import Attend, implementation, softcap_of, with_sinks
from cokv.cache.policies.packing import Packed, pack
from cokv.cache.policies.quantize import AS_IT_IS, INDEX_BYTES, Quantize
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.filling import Filling
from cokv.cache.storage.places import free_places, nbytes
from cokv.cache.storage.ragged import RaggedStorage, merge_attention_states
from cokv.cache.storage.rows import Kept, MemoryUsage, gathered, one_by_one, segments_of
from cokv.model.device import sent

READ_CODES = (choose.AUTO, "compiled")  # attention by these names reads codes where it can


class Pool:
    """Groups of tokens of one width. A group stays where it was put; an index says which segment has which.

    places int64 [groups]: where they lie, segment after segment, each segment's oldest first; counts int64 [segments].
    """

    def __init__(self, segments: int, bits: int, channels: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Without groups; keys, values [0, tokens, head_dim] say what they are like."""
        self.bits, self.channels, self.tokens = bits, channels, keys.shape[1]
        self.keys, self.values = self._packed(keys, values)
        self.places = torch.empty(0, dtype=torch.int64, device=keys.device)
        self.counts = torch.zeros(segments, dtype=torch.int64, device=keys.device)

    def _packed(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[Packed, Packed]:
        """K [groups, head_dim, tokens] along tokens, V [groups, tokens, head_dim] along channels."""
        return pack(keys.transpose(1, 2), self.tokens, self.bits), pack(values, self.channels, self.bits)

    @property
    def owner(self) -> torch.Tensor:
        """Segment of each group, int64 [groups], ascending."""
        return torch.repeat_interleave(torch.arange(len(self.counts), device=self.counts.device), self.counts)

    def add(self, owner: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Groups [groups, tokens, head_dim], behind those that their segments have; owner ascending."""
        capacity = len(self.keys.codes)
        places, needed = free_places(self.places, capacity, len(owner))
        if needed > capacity:
            self.keys, self.values = self.keys.enlarged(needed), self.values.enlarged(needed)
        self.keys[places], self.values[places] = self._packed(keys, values)
        order = torch.cat([self.owner, owner]).argsort(stable=True)
        self.places = torch.cat([self.places, places])[order]
        self.counts = self.counts + torch.bincount(owner, minlength=len(self.counts))

    def unpacked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [groups * tokens, head_dim], segment after segment."""
        keys, values = self.keys[self.places], self.values[self.places]
        return keys.unpacked(self.tokens).transpose(1, 2).flatten(0, 1), values.unpacked(self.channels).flatten(0, 1)

    def groups(self) -> packed.Groups:
        """For attention over codes."""
        keys, values = ((part.codes, part.low, part.step) for part in (self.keys, self.values))
        return packed.Groups(self.bits, self.counts, self.places, keys, values)

    def select(self, segments: torch.Tensor, copies: bool) -> None:
        """Segment i becomes old segment segments[i]: with `copies` in fresh storage, without by the index alone."""
        counts = self.counts[segments]
        starts = (self.counts.cumsum(0) - self.counts)[segments]
        first = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
        self.places = self.places[first + torch.arange(len(first), device=first.device)]
        self.counts = counts
        if copies:
            self.keys, self.values = self.keys[self.places], self.values[self.places]
            self.places = torch.arange(len(self.places), device=first.device)

    @property
    def group_bytes(self) -> int:
        return (self.keys.nbytes + self.values.nbytes) // max(len(self.keys.codes), 1) + INDEX_BYTES

    @property
    def storage_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes + nbytes(self.places, self.counts)


class QuantizedRows:
    """See `Rows`. Policies of one store agree in group and residual; bits may differ from head to head."""

    def __init__(
        self, views: Sequence[PrefillLayer], kept: Kept, policies: Sequence[Quantize], slack: int, backend: Attend
    ) -> None:
        self.heads, _, dim = views[0].keys.shape
        self.policy, self.channels = policies[0], policies[0].channels(dim)
        keys, values, lengths = gathered(views, kept)
        device = keys.device
        self.bits = torch.tensor([b for policy in policies for b in policy.of_heads(self.heads)], device=device)
        groups = torch.tensor([self.policy.groups(n) for n in lengths.tolist()], device=device)
        old_tokens = torch.where(self.bits == AS_IT_IS, 0, groups) * self.policy.group  # tokens of each segment
        place = torch.arange(len(keys), device=device) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        old = place < torch.repeat_interleave(old_tokens, lengths)
        segment = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        self.residual = RaggedStorage(keys[~old], values[~old], lengths - old_tokens, slack, backend)
        self.count_filling()
        self.pools: dict[int, Pool] = {}
        self._pack(
            segment[old][:: self.policy.group],
            keys[old].view(-1, self.policy.group, dim),
            values[old].view(-1, self.policy.group, dim),
        )

    def count_filling(self) -> None:
        """Asks the device once how full each residual is."""
        full = max(self.policy.residual + 1, self.policy.group)
        self.filling = Filling(
            self.residual.lengths.tolist(), [math.inf if bits == AS_IT_IS else full for bits in self.bits.tolist()]
        )

    def _pack(self, owner: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Takes groups of tokens [groups, tokens, head_dim] into the pools; owner int64 [groups], ascending."""
        widths = self.bits[owner]
        for bits in widths.unique().tolist():
            of_width = widths == bits
            if bits not in self.pools:
                self.pools[bits] = Pool(len(self.bits), bits, self.channels, keys[:0], values[:0])
            self.pools[bits].add(owner[of_width], keys[of_width], values[of_width])

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
            return one_by_one(self, queries, keys, values, scaling, sinks)
        grouped = queries.reshape(rows * self.heads, num_heads // self.heads, dim)
        out, _ = with_sinks(*self._step(grouped, keys.reshape(-1, dim), values.reshape(-1, dim), scaling), sinks)
        self.filling.one_more()
        if full := self.filling.full_segments():
            self._pack_oldest(full)
        return out.view(rows, num_heads, 1, dim)

    @property
    def unpacks(self) -> str | None:
        """Why attention unpacks what is stored; None where it reads codes."""
        name = choose.name_of(implementation(self.residual.backend))
        if name not in READ_CODES:
            return f"attention {name!r} attends what is unpacked"
        return packed.why_not(self.residual.device, self.residual.dtype)

    def _step(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores a token per segment in the residual, and attends everything.

        queries [segments, group_size, head_dim], keys and values [segments, head_dim]. Output as queries, log-sum-exp
        [segments, group_size].
        """
        store = self.residual
        if self.pools and queries.dtype == torch.float32 and self.unpacks is None:
            store.make_room()
            pools = [pool.groups() for pool in self.pools.values()]
            residual, new = (store.k, store.v, store.starts, store.lengths), (keys, values)
            store.room -= 1
            return packed.step(
                queries, pools, self.policy.group, self.channels, *residual, new, scaling, softcap_of(store.backend)
            )
        parts = [store.append_and_attend(queries, keys, values, scaling)]
        for pool in self.pools.values():
            lengths = pool.counts * self.policy.group
            parts.append(store.backend(queries, *pool.unpacked(), lengths.cumsum(0) - lengths, lengths, scaling))
        return merge_attention_states(parts)

    def _pack_oldest(self, segments: list[int]) -> None:
        """Of these residuals, which hold too much, the oldest group."""
        store, group = self.residual, self.policy.group
        owner = sent(torch.tensor(segments), store.device)
        slots = store.starts[owner, None] + torch.arange(group, device=owner.device)
        self._pack(owner, store.k[slots], store.v[slots])
        gone = torch.zeros_like(store.lengths).index_fill_(0, owner, group)
        store.starts, store.lengths = store.starts + gone, store.lengths - gone
        self.filling.gave(segments, group)

    def select(self, rows: torch.Tensor, copies: bool) -> None:
        segments = segments_of(rows.to(self.bits.device), self.heads)
        (self.residual.copy_segments if copies else self.residual.keep_segments)(segments)
        for pool in self.pools.values():
            pool.select(segments, copies)
        self.bits = self.bits[segments]
        self.filling.select(segments_of(rows.cpu(), self.heads).tolist())

    can_crop = False

    def crop(self, count: int) -> None:
        raise AssertionError("tokens that were packed or paged away do not come back one by one")

    def held(self) -> list[MemoryUsage]:
        slots = self.residual.lengths.clone()
        size = self.residual.lengths * self.residual.token_bytes
        for pool in self.pools.values():
            slots += pool.counts * self.policy.group
            size = size + pool.counts * pool.group_bytes
        by_row = [part.view(-1, self.heads).sum(1).tolist() for part in (slots, size)]
        return [MemoryUsage(n, m) for n, m in zip(*by_row, strict=True)]

    @property
    def storage_bytes(self) -> int:
        index = nbytes(self.bits, self.residual.starts, self.residual.lengths)
        return self.residual.storage_bytes + index + sum(pool.storage_bytes for pool in self.pools.values())
