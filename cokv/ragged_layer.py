"""One layer's ragged storage: each (row, KV head) owns exactly the tokens it keeps.

Storage is flat: K and V are `[slots, head_dim]`, and a *segment* (one row's KV head) is a stretch of slots with a
start, a length and a capacity. Equal slack after every segment makes appending a scatter of one slot each; when it is
used up the layer is laid out again with more. Knows no other layer, and no transformers cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cokv.attention import buckets
from cokv.attention.interface import tagged
from cokv.compat import Layer
from cokv.policies.growth import EvictOldest, Grow, Policy
from cokv.prefill import PrefillLayer
from cokv.types import CokvError, Selection

# Kept positions of one layer's KV heads, from that layer alone.
LayerSelect = Callable[[PrefillLayer], Sequence[torch.Tensor]]
Attend = Callable[..., tuple[torch.Tensor, torch.Tensor]]
SLACK = 32


class RaggedLayer(Layer):
    """One layer's ragged storage. Segments are row-major: segment = row * num_kv_heads + kv_head."""

    def __init__(
        self,
        index: int = 0,
        select: LayerSelect | None = None,
        window: int = 32,
        slack: int = SLACK,
        attend: Attend = buckets.attend,
        policy: Policy | None = None,
    ) -> None:
        super().__init__()
        if slack < 1:
            raise CokvError(f"slack of {slack} slots per head; expected at least 1, the room for the next token")
        self.index, self.select, self.window, self.slack, self.backend = index, select, window, slack, attend
        self.policy = policy or Grow()  # of every row that this layer compresses by itself
        self.ragged = False
        self.limits: torch.Tensor | None = None  # slots per segment at which it evicts; None when every segment grows

    # ---- filling

    def fill(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        kept: Sequence[Sequence[torch.Tensor]],
        policies: Sequence[Policy] | None = None,
    ) -> None:
        """Takes the kept positions (`kept[row][kv_head]`, ascending) out of keys, values [1 or rows, num_kv_heads,
        seq_len, head_dim].

        With a batch of one, all rows take from the same prompt. Positions index the given tensors.
        """
        sources, heads, seq_len, dim = keys.shape
        self.lazy_initialization(keys, values)
        self.heads, self.dim = heads, dim
        flat = [p for row in kept for p in row]
        self.lengths = torch.tensor([p.numel() for p in flat], device=self.device)
        self._set_policies(policies, len(kept))
        self._lay_out(self.slack)
        owner = torch.arange(len(flat), device=self.device)
        source = (owner // heads % sources) * heads + owner % heads
        taken = torch.cat([p.to(self.device) for p in flat]) + torch.repeat_interleave(source, self.lengths) * seq_len
        slots = self._slots(self.lengths)
        self.k[slots] = keys.reshape(-1, dim)[taken]
        self.v[slots] = values.reshape(-1, dim)[taken]
        self.keys = self.values = None
        self.ragged = True

    def _set_policies(self, policies: Sequence[Policy] | None, rows: int) -> None:
        if policies is None or all(isinstance(p, Grow) for p in policies):
            return
        assert len(policies) == rows, (len(policies), rows)
        never = torch.iinfo(torch.int64).max
        pairs = [(p.limit, p.sinks) if isinstance(p, EvictOldest) else (never, 0) for p in policies]
        spread = torch.tensor(pairs, device=self.device).repeat_interleave(self.heads, dim=0)
        self.limits, self.sinks = spread[:, 0], spread[:, 1]
        self.evicted = torch.zeros_like(self.limits)
        if bool((self.lengths > self.limits).any()):
            raise CokvError("a selection holds more tokens than its eviction limit; select at most `limit` per head")

    def _lay_out(self, slack: int) -> None:
        """Fresh, unfilled storage for the present lengths, with `slack` free slots after every segment."""
        capacities = self.lengths + slack
        self.starts = capacities.cumsum(0) - capacities
        self.k = torch.empty(int(capacities.sum()), self.dim, dtype=self.dtype, device=self.device)
        self.v = torch.empty_like(self.k)
        self.room = (
            slack  # free slots of the fullest segment: a plain number, so that appending never waits for the device
        )

    def _slots(self, lengths: torch.Tensor) -> torch.Tensor:
        """Flat slots of the first `lengths` tokens of every segment, segment after segment."""
        before = lengths.cumsum(0) - lengths
        offsets = torch.arange(int(lengths.sum()), device=self.device) - torch.repeat_interleave(before, lengths)
        return torch.repeat_interleave(self.starts, lengths) + offsets

    # ---- the cache protocol

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen += key_states.shape[-2]
        if not self.ragged:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.keys, self.values = key_states, value_states
            else:
                self.keys = torch.cat([self.keys, key_states], dim=-2)
                self.values = torch.cat([self.values, value_states], dim=-2)
            key_states, value_states = self.keys, self.values
        return tagged(key_states, self), value_states

    def attends(self) -> bool:
        return self.ragged

    def observe(self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> None:
        """After the prompt's dense attention: select, and keep only that. Padding on the left is cut off first."""
        if self.select is None:
            return
        rows, heads, seq_len, _ = self.keys.shape
        starts = [0] * rows if mask is None else _prompt_starts(mask, rows)
        kept = []
        for row, start in enumerate(starts):
            view = PrefillLayer(
                self.index,
                self.keys[row, :, start:],
                self.values[row, :, start:],
                queries[row, :, max(seq_len - self.window, start) :],
                scaling,
            )
            chosen = Selection.from_heads([list(self.select(view))], seq_len - start)
            if chosen.num_kv_heads != heads:
                raise CokvError(
                    f"select gave positions for {chosen.num_kv_heads} heads, expected {heads}, one tensor per KV head"
                )
            kept.append([chosen.head(0, h) + start for h in range(heads)])
        self.fill(self.keys, self.values, kept, [self.policy] * rows)

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
        """Queries [rows, num_heads, t, head_dim] over the stored tokens and the t new ones (causal among these),
        which are then stored.

        Rows that evict take the new tokens one by one, so that none ever attends more than its limit.
        """
        rows, num_heads, t, dim = queries.shape
        if t > 1 and self.limits is not None:
            steps = [(slice(None), slice(None), slice(i, i + 1)) for i in range(t)]
            return torch.cat([self.attend(queries[i], keys[i], values[i], scaling) for i in steps], dim=2)
        group = num_heads // self.heads
        if t == 1:
            self.append(keys, values)
            grouped = queries.reshape(rows * self.heads, group, dim)
            out, _ = self.backend(grouped, self.k, self.v, self.starts, self.lengths, scaling)
            return out.view(rows, num_heads, 1, dim)
        grouped = queries.reshape(rows * self.heads, group * t, dim)
        old, old_lse = self.backend(grouped, self.k, self.v, self.starts, self.lengths, scaling)
        five = queries.reshape(rows, self.heads, group, t, dim)
        logits = five.to(old_lse.dtype) @ keys[:, :, None].to(old_lse.dtype).transpose(-1, -2) * scaling
        causal = torch.ones(t, t, dtype=torch.bool, device=queries.device).tril()
        logits = logits.masked_fill(~causal, -torch.inf)
        new_lse = logits.logsumexp(-1)
        new = logits.softmax(-1).to(values.dtype) @ values[:, :, None]
        share = torch.sigmoid(new_lse - old_lse.view_as(new_lse))[..., None].to(
            new.dtype
        )  # of the new tokens; 1 when nothing is stored
        out = old.view_as(new) * (1 - share) + new * share
        for i in range(t):
            self.append(keys[:, :, i : i + 1], values[:, :, i : i + 1])
        return out.reshape(rows, num_heads, t, dim)

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Stores one token per segment: keys, values [rows, num_kv_heads, 1, head_dim]."""
        if self.room == 0:
            self._grow()
        slots = self.starts + self.lengths
        grows = torch.ones_like(self.lengths)
        if self.limits is not None:
            full = self.lengths >= self.limits
            oldest = self.starts + self.sinks + self.evicted % (self.limits - self.sinks).clamp(min=1)
            slots, grows = torch.where(full, oldest, slots), (~full).long()
            self.evicted += full
        self.k[slots] = keys.reshape(-1, self.dim)
        self.v[slots] = values.reshape(-1, self.dim)
        self.lengths = self.lengths + grows
        self.room -= 1

    def _grow(self) -> None:
        """Lays the storage out again with more slack: a quarter of the mean length, at least the configured slack."""
        old, k, v = self._slots(self.lengths), self.k, self.v
        self._lay_out(max(self.slack, int(self.lengths.float().mean()) // 4))
        slots = self._slots(self.lengths)
        self.k[slots], self.v[slots] = k[old], v[old]

    # ---- rows

    def reorder_cache(self, rows: torch.Tensor) -> None:
        """Beam search and the like: row i becomes a copy of old row rows[i]."""
        if not self.ragged:
            super().reorder_cache(rows)  # type: ignore[arg-type]
            return
        segments = self._segments(rows)
        starts, lengths, k, v = self.starts[segments], self.lengths[segments], self.k, self.v
        self.lengths = lengths
        if self.limits is not None:
            self.limits, self.sinks, self.evicted = self.limits[segments], self.sinks[segments], self.evicted[segments]
        self._lay_out(self.slack)
        slots = self._slots(lengths)
        old = torch.repeat_interleave(starts - (lengths.cumsum(0) - lengths), lengths) + torch.arange(
            slots.numel(), device=self.device
        )
        self.k[slots], self.v[slots] = k[old], v[old]

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Forgets the other rows without moving storage: for rows that have ended."""
        segments = self._segments(rows)
        self.starts, self.lengths = self.starts[segments], self.lengths[segments]
        if self.limits is not None:
            self.limits, self.sinks, self.evicted = self.limits[segments], self.sinks[segments], self.evicted[segments]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = self.lengths.numel() // self.heads if self.ragged else self.keys.shape[0]
        self.reorder_cache(torch.arange(rows).repeat_interleave(repeats))

    def reset(self) -> None:
        self.__init__(self.index, self.select, self.window, self.slack, self.backend, self.policy)  # type: ignore[misc]

    def _segments(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(self.device)
        return (rows[:, None] * self.heads + torch.arange(self.heads, device=self.device)).reshape(-1)

    # ---- what it holds

    @property
    def stored_tokens(self) -> int:
        """KV slots in use, over all rows and heads."""
        if not self.is_initialized:
            return 0
        return int(self.lengths.sum()) if self.ragged else self.keys[..., 0].numel()

    @property
    def storage_bytes(self) -> int:
        """Bytes of storage, slack included."""
        if not self.is_initialized:
            return 0
        tensors = (self.k, self.v) if self.ragged else (self.keys, self.values)
        return sum(t.untyped_storage().nbytes() for t in tensors)


def _prompt_starts(mask: torch.Tensor, rows: int) -> list[int]:
    """Where each row's prompt begins behind its padding, from what its last query sees: mask [1 or rows, 1, t, n]."""
    seen = (mask[:, 0, -1] if mask.dtype == torch.bool else mask[:, 0, -1] == 0).expand(rows, -1)
    starts = seen.int().argmax(-1)
    if bool((seen.sum(-1) != seen.shape[1] - starts).any()):
        raise CokvError("a prompt has padding, or masked tokens, after its first token; pad on the left only")
    return [int(start) for start in starts]
