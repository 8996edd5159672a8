"""Which slot of a flat store goes when a head is full: a ring for the oldest.

A *watcher* looks after some segments of the store. Before a token is stored it says where; after the token has
attended it may drop one. Slots are refilled, so that storage order says nothing of positions. Rules by attention are
watched in attention_evictor.py.
"""

from __future__ import annotations

import torch

from cokv.cache.storage.ragged import RaggedStorage


class OldestEvictor:
    """EvictOldest: each new token of a full segment takes the slot of the oldest that is no sink."""

    def __init__(self, segments: torch.Tensor, limits: torch.Tensor, sinks: torch.Tensor) -> None:
        self.segments, self.limits = segments, limits  # int64 [watched], slots at which a segment is full
        self.sinks, self.evicted = sinks, torch.zeros_like(limits)
        self.capped = False
        # In how many steps all of its segments will be full; None: to be asked. A plain number, so that no step waits.
        self.wait: int | None = None

    def expect(self, store: RaggedStorage, tokens: int) -> None:
        """So many tokens of the prompt are still to be read: a segment has slots for these beside what it holds."""
        self.limits, self.wait = torch.maximum(self.limits, store.lengths[self.segments] + tokens), None

    def watches_all(self, store: RaggedStorage) -> bool:
        return len(self.segments) == len(store.lengths)

    def full(self, store: RaggedStorage) -> bool:
        """Whether all of its segments are full, and none grows any more. Asks the device once."""
        if self.wait is None:
            room = self.limits - store.lengths[self.segments]
            self.wait = int(room.max()) if len(room) else 0
        return self.wait <= 0 and self.capped

    def oldest(self) -> torch.Tensor:
        """Where the oldest token of each segment lies, once it is full: int64 [watched]."""
        sinks = torch.minimum(self.sinks, self.limits - 1)
        return sinks + self.evicted % (self.limits - sinks)

    def next_places(self, store: RaggedStorage) -> torch.Tensor:
        """Where the next tokens go, of a store whose segments it watches all, and which are full: int64 [segments]."""
        places = self.oldest()
        self.evicted += 1  # in place, where a recorded step finds it
        return places

    def place(
        self, store: RaggedStorage, places: torch.Tensor, grows: torch.Tensor, kinds: torch.Tensor | None = None
    ) -> None:
        """Writes where the next token of its segments goes, and whether they get longer by it.

        kinds: int64 [segments of the store], what kind of token it is, where that is known.
        """
        if self.full(store):
            places[self.segments] = self.next_places(store)
            grows[self.segments] = False
            return
        if not self.capped:
            store.cap(self.segments, self.limits)
            self.capped = True
        lengths = store.lengths[self.segments]
        full = lengths >= self.limits
        places[self.segments], grows[self.segments] = torch.where(full, self.oldest(), lengths), ~full
        self.evicted += full
        assert self.wait is not None
        self.wait -= 1

    @property
    def dropped_nothing(self) -> bool:
        """So far; waits for the device."""
        return not bool(self.evicted.any())

    def attended(self, store: RaggedStorage, queries: torch.Tensor, lse: torch.Tensor, scaling: float) -> None:
        """Nothing: it makes room before."""

    def select(self, picked: torch.Tensor, segments: torch.Tensor) -> None:
        """Watched segment i becomes a copy of picked[i], and is segments[i] of the store."""
        self.segments, self.wait = segments, None
        self.limits, self.sinks, self.evicted = self.limits[picked], self.sinks[picked], self.evicted[picked]

    def segment_bytes(self) -> int:
        return 0
