"""Columns of notes beside a flat store, for rules that drop tokens by attention while decoding.

A segment that is full has one slot more than its limit. Between steps that slot, anywhere in the segment, is a *hole*:
it is where the next token goes, so that nothing moves when another is dropped. While a step attends there is no hole.
What a step must know of lengths is known on the host, so that steps of full heads look at nothing and wait for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.cache.attention.backend import softcap_of
from cokv.cache.attention.weights import weights as weights_by_lse
from cokv.cache.policies.protocol import EvictsByAttention, FullHeads, Known, reads_kinds
from cokv.cache.storage.ragged import RaggedStorage
from cokv.types import CokvError


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
        the position of the next token, int64 [watched] on the CPU. `segments`: ascending. `heads`: so many segments in
        turn are a row of the rule's.
        """
        self.rule, self.segments, self.heads = rule, segments, heads
        device, held, allowed = segments.device, [p.numel() for p in positions], limits.tolist()
        self.limits = limits.to(device)
        width = max(allowed) + 1
        for tokens, limit in zip(held, allowed, strict=True):
            if tokens > limit:
                raise CokvError(
                    f"a selection holds {tokens} tokens in a head, more than its eviction limit; select at most "
                    f"{limit} per head"
                )
        self.positions = torch.full((len(positions), width), -1, dtype=torch.int32, device=device)
        numbers = memory[0].shape[1:]
        self.memory = torch.zeros(len(positions), width, *numbers, dtype=memory[0].dtype, device=device)
        for row, (where, what) in enumerate(zip(positions, memory, strict=True)):
            self.positions[row, : where.numel()] = where
            self.memory[row, : where.numel()] = what
        by_row = self.positions.view(-1, heads, width)
        if rule.same_in_all_heads and bool((by_row != by_row[:, :1]).any()):
            raise CokvError(
                f"{type(rule).__name__} drops the same tokens in every head of a layer, but the selection holds "
                "different ones; select the same positions in all heads of a layer"
            )
        self.next, self.read = next_positions.to(device, self.positions.dtype), int(next_positions.min())
        self.hole = torch.tensor(held, device=device)  # column of the next token
        self.step = self.drops = 0
        self.filling = max(limit - tokens for tokens, limit in zip(held, allowed, strict=True))  # steps until all drop
        self.even = min(allowed) == max(allowed)
        self.consecutive = 0 if device.type != "cpu" else self._consecutive()
        self.capped = False

    def _consecutive(self) -> int:
        """How many of the newest tokens have consecutive positions up to the next one's, in every segment."""
        numbered = self.next[:, None] - self.hole[:, None] + torch.arange(self.positions.shape[1])
        return int((self.positions == numbered).sum(1).min())  # ascending, and below `next`: where equal, so are later

    @property
    def full(self) -> bool:
        """Whether each segment drops a token with the next step."""
        return self.filling == 0

    def cap(self, store: RaggedStorage) -> None:
        """The watched segments never need more than their limit, and one slot while a token is being read."""
        if not self.capped:
            store.cap(self.segments, self.limits + 1)
            self.capped = True

    def place(
        self, store: RaggedStorage, places: torch.Tensor, grows: torch.Tensor, kinds: torch.Tensor | None = None
    ) -> None:
        """The next token goes into the hole. All segments grow by it, as long as it is being read."""
        self.begins(store, kinds)
        places.index_copy_(0, self.segments, self.hole)

    def begins(self, store: RaggedStorage, kinds: torch.Tensor | None) -> None:
        """A token will go into each hole. kinds: int64 [segments of the store], where they are known."""
        if reads_kinds(self.rule) and kinds is None:
            raise CokvError(
                f"{type(self.rule).__name__} must know which tokens are read, and got no ids; run the model "
                "itself with input_ids, not a part of it"
            )
        self.cap(store)

    def _note(self, kinds: torch.Tensor | None) -> None:
        """Notes of the token that is being read."""
        where = self.hole[:, None]
        self.positions.scatter_(1, where, self.next[:, None])
        column = where[..., None].expand(-1, -1, self.memory.shape[2])
        if reads_kinds(self.rule):
            assert kinds is not None
            begun = self.rule.begun(kinds[self.segments])
            self.memory.scatter_(1, column, begun[:, None].to(self.memory.dtype))
        else:
            self.memory.scatter_(1, column, 0)
        self.next += 1

    @property
    def width(self) -> int:
        """Columns: the highest limit and one."""
        return self.positions.shape[1]

    def watches_all(self, store: RaggedStorage) -> bool:
        return len(self.segments) == len(store.lengths)

    def attended(
        self,
        store: RaggedStorage,
        queries: torch.Tensor,
        lse: torch.Tensor | None,
        scaling: float,
        weights: torch.Tensor | None = None,
        kinds: torch.Tensor | None = None,
    ) -> None:
        """Notes the step's token and its attention, and drops one of every segment that holds more than the limit.

        queries [segments, group_size, head_dim], of the whole store; likewise the attention weights float32 [segments,
        group_size, width or more], or the log-sum-exp [segments, group_size] from which they are computed here; kinds
        as for `begins`.
        """
        self.consecutive, self.read = self.consecutive + 1, self.read + 1
        if weights is None or not self.full or not self._drop_in_one_call(store, weights, kinds):
            self._note(kinds)
            segments, whole = self.segments, self.watches_all(store)
            lengths = store.lengths if whole else store.lengths[segments]
            if weights is not None:
                weights = (weights if whole else weights[segments])[..., : self.width]
            else:
                assert lse is not None
                attended, cap = (queries[segments], store.k, store.starts[segments], lengths), softcap_of(store.backend)
                weights = weights_by_lse(*attended, lse[segments], scaling, self.width, cap)
            drops = self._drop(weights, lengths)
            store.lengths = lengths - drops if whole else store.lengths.index_add(0, segments, -drops)
        self._count()

    def attended_full(self, weights: torch.Tensor, kinds: torch.Tensor | None) -> None:
        """`attended`, where all segments of the store are full and their lengths were left as they are."""
        self.consecutive, self.read = self.consecutive + 1, self.read + 1
        self._note(kinds)
        self._update(weights)
        self._count()

    def _count(self) -> None:
        self.step += 1
        self.drops += self.full
        self.filling = max(self.filling - 1, 0)

    def _known(self, next_positions: torch.Tensor | None = None) -> Known:
        even, drops = self.even and self.full, self.drops if self.full else None
        return Known(even, drops, self.consecutive, self.read, next_positions)

    def _drop_in_one_call(self, store: RaggedStorage, weights: torch.Tensor, kinds: torch.Tensor | None) -> bool:
        return self.rule.drop(
            FullHeads(
                weights,
                self.segments,
                self.memory,
                self.positions,
                self.next,
                self.hole,
                store.lengths,
                kinds if reads_kinds(self.rule) else None,
                self.heads,
                self.step,
                self._known(),
            )
        )

    def _drop(self, weights: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`_update`; lengths int64 [watched] -> how many tokens each drops, int64 [watched]."""
        if self.full:
            self._update(weights)
            return torch.ones_like(lengths)
        full = lengths > self.limits
        self._update(weights, lengths, full)
        return full.long()

    def _update(
        self, weights: torch.Tensor, lengths: torch.Tensor | None = None, full: torch.Tensor | None = None
    ) -> None:
        """Notes a query's attention, float32 [watched, group_size, width], and makes the new holes: behind the last
        token of `lengths` where a segment is not `full`.
        """
        group, width = weights.shape[1:]
        known = self._known(self.next[:, None])
        held = None if known.even else (self.positions >= 0).view(-1, self.heads, width)
        by_row = weights.reshape(-1, self.heads, group, width)
        self.rule.update(self.memory.view(-1, self.heads, width, self.memory.shape[2]), by_row, held, self.step)
        self.hole = self.rule.worst(self.memory, self.positions, group, known)
        if full is not None and lengths is not None:
            self.hole = torch.where(full, self.hole, lengths)
        self.positions.scatter_(1, self.hole[:, None], -1)

    def select(self, picked: torch.Tensor, segments: torch.Tensor) -> None:
        self.segments = segments
        self.positions, self.memory = self.positions[picked], self.memory[picked]
        self.limits, self.next, self.hole = self.limits[picked], self.next[picked], self.hole[picked]

    def segment_bytes(self) -> int:
        """Bytes of notes per segment."""
        return sum(part[0].numel() * part.element_size() for part in (self.positions, self.memory) if len(part))
