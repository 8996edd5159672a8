"""Which slot of a flat store goes when a head is full: a ring for the oldest, columns of notes for rules by attention.

A *watcher* looks after some segments of the store. Before a token is stored it says where; after the token has
attended it may drop one. Slots are refilled, so that storage order says nothing of positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.cache.attention.backend import softcap_of
from cokv.cache.attention.weights import weights
from cokv.cache.policies.protocol import EvictsByAttention, ReadsKinds
from cokv.cache.storage.ragged import RaggedStorage
from cokv.types import CokvError


class OldestEvictor:
    """EvictOldest: each new token of a full segment takes the slot of the oldest that is no sink."""

    def __init__(self, segments: torch.Tensor, limits: torch.Tensor, sinks: torch.Tensor) -> None:
        self.segments, self.limits = segments, limits  # int64 [watched], slots at which a segment is full
        self.sinks, self.evicted = sinks, torch.zeros_like(limits)
        self.capped = False

    def expect(self, store: RaggedStorage, tokens: int) -> None:
        """So many tokens of the prompt are still to be read: a segment has slots for these beside what it holds."""
        self.limits = torch.maximum(self.limits, store.lengths[self.segments] + tokens)

    def place(
        self, store: RaggedStorage, places: torch.Tensor, grows: torch.Tensor, kinds: torch.Tensor | None = None
    ) -> None:
        """Writes where the next token of its segments goes, and whether they get longer by it.

        kinds: int64 [segments of the store], what kind of token it is, where that is known.
        """
        if not self.capped:
            store.cap(self.segments, self.limits)
            self.capped = True
        lengths = store.lengths[self.segments]
        full = lengths >= self.limits
        sinks = torch.minimum(self.sinks, self.limits - 1)
        oldest = sinks + self.evicted % (self.limits - sinks)
        places[self.segments], grows[self.segments] = torch.where(full, oldest, lengths), ~full
        self.evicted += full

    def attended(self, store: RaggedStorage, queries: torch.Tensor, lse: torch.Tensor, scaling: float) -> None:
        """Nothing: it makes room before."""

    def select(self, picked: torch.Tensor, segments: torch.Tensor) -> None:
        """Watched segment i becomes a copy of picked[i], and is segments[i] of the store."""
        self.segments = segments
        self.limits, self.sinks, self.evicted = self.limits[picked], self.sinks[picked], self.evicted[picked]

    def segment_bytes(self) -> int:
        return 0


class AttentionEvictor:
    """A rule by attention over some segments: the positions they hold, and what it remembers of each."""

    def __init__(
        self,
        rule: EvictsByAttention,
        segments: torch.Tensor,
        positions: Sequence[torch.Tensor],
        memory: Sequence[torch.Tensor],
        limits: torch.Tensor,
        next_positions: torch.Tensor,
        heads: int = 1,
    ) -> None:
        """Per segment: positions int64 [tokens] and their memory [tokens, numbers], in storage order; the limit, and
        the position of the next token, int64 [watched]. `heads`: so many segments in turn are a row of the rule's.
        """
        self.rule, self.segments, self.limits, self.heads = rule, segments, limits, heads
        width = int(limits.max()) + 1
        for where, limit in zip(positions, limits.tolist(), strict=True):
            if where.numel() > limit:
                raise CokvError(
                    f"a selection holds {where.numel()} tokens in a head, more than its eviction limit; select at most "
                    f"{limit} per head"
                )
        self.positions = torch.full((len(positions), width), -1, dtype=torch.int32, device=segments.device)
        numbers = memory[0].shape[1:]
        self.memory = torch.zeros(len(positions), width, *numbers, dtype=memory[0].dtype, device=segments.device)
        for row, (where, what) in enumerate(zip(positions, memory, strict=True)):
            self.positions[row, : where.numel()] = where
            self.memory[row, : where.numel()] = what
        by_row = self.positions.view(-1, heads, width)
        if rule.same_in_all_heads and bool((by_row != by_row[:, :1]).any()):
            raise CokvError(
                f"{type(rule).__name__} drops the same tokens in every head of a layer, but the selection holds "
                "different ones; select the same positions in all heads of a layer"
            )
        self.step, self.next = 0, next_positions.to(self.positions.dtype)
        self.capped = False

    def place(
        self, store: RaggedStorage, places: torch.Tensor, grows: torch.Tensor, kinds: torch.Tensor | None = None
    ) -> None:
        """The next token goes behind the last, which is where it is by default; it is only noted."""
        if not self.capped:
            store.cap(self.segments, self.limits + 1)  # one more while a token is being read
            self.capped = True
        last = store.lengths[self.segments][:, None]
        self.positions.scatter_(1, last, self.next[:, None])
        column = last[..., None].expand(-1, -1, self.memory.shape[2])
        if isinstance(self.rule, ReadsKinds):
            if kinds is None:
                raise CokvError(
                    f"{type(self.rule).__name__} must know which tokens are read, and got no ids; run the model "
                    "itself with input_ids, not a part of it"
                )
            begun = self.rule.begun(kinds[self.segments])
            self.memory.scatter_(1, column, begun[:, None].to(self.memory.dtype))
        else:
            self.memory.scatter_(1, column, 0)
        self.next = self.next + 1

    def attended(self, store: RaggedStorage, queries: torch.Tensor, lse: torch.Tensor, scaling: float) -> None:
        """Notes the step's attention, and drops one token of every segment that holds more than the limit.

        queries [segments, group_size, head_dim] and lse [segments, group_size], of the whole store.
        """
        segments, width = self.segments, self.positions.shape[1]
        lengths = store.lengths[segments]
        starts, cap = store.starts[segments], softcap_of(store.backend)
        attention = weights(queries[segments], store.k, starts, lengths, lse[segments], scaling, width, cap)
        held = (self.positions >= 0).view(-1, self.heads, width)
        self.rule.update(
            self.memory.view(-1, self.heads, width, self.memory.shape[2]),
            attention.view(-1, self.heads, attention.shape[1], width),
            held,
            self.step,
        )
        self.step += 1
        full, last = lengths > self.limits, lengths - 1
        hole = torch.where(full, self.rule.worst(self.memory, self.positions, queries.shape[1]), last)
        rows = torch.arange(len(segments), device=segments.device)
        slots = store.starts[segments]
        store.k[slots + hole], store.v[slots + hole] = store.k[slots + last], store.v[slots + last]
        self.positions[rows, hole] = self.positions[rows, last]
        self.memory[rows, hole] = self.memory[rows, last]
        self.positions[rows, last] = torch.where(full, -1, self.positions[rows, last])
        store.lengths = store.lengths.index_add(0, segments, -full.long())

    def select(self, picked: torch.Tensor, segments: torch.Tensor) -> None:
        self.segments = segments
        self.positions, self.memory = self.positions[picked], self.memory[picked]
        self.limits, self.next = self.limits[picked], self.next[picked]

    def segment_bytes(self) -> int:
        """Bytes of notes per segment."""
        return sum(part[0].numel() * part.element_size() for part in (self.positions, self.memory) if len(part))
