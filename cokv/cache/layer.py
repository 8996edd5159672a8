"""One layer's ragged cache: each (row, KV head) owns exactly the tokens it keeps.

Keeps the prompt until it has been attended, then hands it to stores (cokv/cache/storage) and lets them answer. Knows no
other layer, and no transformers cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from cokv.cache.attention import buckets
from cokv.cache.attention.interface import tagged
from cokv.cache.attention.masks import check_plain, prompt_starts
from cokv.cache.compat import Layer
from cokv.cache.policies import Grow, Policy
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.mixed import MixedRows
from cokv.cache.storage.ragged import SLACK, Attend
from cokv.cache.storage.rows import Kept, MemoryUsage, Rows
from cokv.model.observe import LayerView, ModelParts
from cokv.types import CokvError, Selection

# Kept positions of one layer's KV heads, from that layer alone.
LayerSelect = Callable[[PrefillLayer], Sequence[torch.Tensor]]


class RaggedLayer(Layer):
    """Rows of one layer, in stores of one or more kinds."""

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
        self.rows: MixedRows | None = None  # once the prompt has been compressed
        self.told: torch.Tensor | None = None  # kinds of the tokens that come next, where they are known
        self.starts = torch.zeros(0, dtype=torch.int64)  # where each row's prompt begins behind its padding
        self.checks_masks = True  # a cache whose layers all get one mask asks but the first

    # ---- filling

    def fill(self, views: Sequence[PrefillLayer], kept: Kept, policies: Sequence[Policy] | None = None) -> None:
        """Takes the kept positions (`kept[row][kv_head]`, ascending) out of the prompts: one for all rows, or one each.

        `policies`: one per row; all rows grow by default.
        """
        if not self.is_initialized:
            self.lazy_initialization(views[0].keys, views[0].values)
        policies = policies or [Grow()] * len(kept)
        assert len(policies) == len(kept) and len(views) in (1, len(kept)), (len(views), len(kept), len(policies))
        self.rows = MixedRows(views, kept, policies, self.slack, self.backend)
        self.starts = torch.zeros(len(kept), dtype=torch.int64)
        self.keys = self.values = None

    @property
    def parts(self) -> list[tuple[torch.Tensor, Rows]]:
        """Rows int64, on the CPU, and the store that has them."""
        return [] if self.rows is None else self.rows.parts

    # ---- the cache protocol

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen += key_states.shape[-2]
        if self.rows is None:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.keys, self.values = key_states, value_states
            else:
                self.keys = torch.cat([self.keys, key_states], dim=-2)
                self.values = torch.cat([self.values, value_states], dim=-2)
            key_states, value_states = self.keys, self.values
        return tagged(key_states, self), value_states

    def attends(self) -> bool:
        return self.rows is not None

    def observe(self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> None:
        """After the prompt's dense attention: select, and keep only that. Padding on the left is cut off first."""
        if self.select is None:
            return
        rows, heads, seq_len, _ = self.keys.shape
        starts = prompt_starts(mask, rows, seq_len)
        window = max(self.window, getattr(self.policy, "window_size", 0))
        views, kept = [], []
        for row, start in enumerate(starts.tolist()):
            keys, values, asked = self.keys[row, :, start:], self.values[row, :, start:], queries[row, :, start:]
            last = asked[:, max(asked.shape[1] - window, 0) :]
            view = PrefillLayer(self.index, keys, values, last, scaling)
            watching = getattr(self.policy, "observers", ())
            if watching:
                whole = LayerView(self.index, torch.empty(0), asked, keys, values, scaling, ModelParts(None))
                view = replace(view, observed={observer: observer.observe(whole) for observer in watching})
            chosen = Selection.from_heads([list(self.select(view))], seq_len - start)
            if chosen.num_kv_heads != heads:
                raise CokvError(
                    f"select gave positions for {chosen.num_kv_heads} heads, expected {heads}, one tensor per KV head"
                )
            views.append(view)
            kept.append([chosen.head(0, h) for h in range(heads)])
        self.fill(views, kept, [self.policy] * rows)
        self.starts = starts

    def check_mask(self, mask: torch.Tensor | None, t: int) -> None:
        if self.checks_masks:
            check_plain(mask, self.starts, t, self.seen)

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
        """Queries [rows, num_heads, t, head_dim] over the stored tokens and the t new ones (causal among these),
        which are then stored.
        """
        told, self.told = self.told, None
        new = [queries.shape[0], queries.shape[2]]
        if told is not None and list(told.shape) != new:
            raise CokvError(
                f"the cache was told of tokens {list(told.shape)} and reads {new}; call cache.reads(input_ids) with "
                "the ids of the forward pass that follows"
            )
        assert self.rows is not None
        self.rows.tell(told)
        return self.rows.attend(queries, keys, values, scaling)

    # ---- rows

    def _select(self, rows: torch.Tensor, copies: bool) -> None:
        assert self.rows is not None
        rows = rows.cpu()
        self.rows.select(rows, copies)
        self.starts = self.starts[rows]

    def reorder_cache(self, rows: torch.Tensor) -> None:
        """Beam search and the like: row i becomes a copy of old row rows[i]."""
        if self.rows is not None:
            self._select(rows, copies=True)
        else:
            super().reorder_cache(rows)  # type: ignore[arg-type]

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Forgets the other rows without moving storage: for rows that have ended."""
        self._select(rows, copies=False)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = self.keys.shape[0] if self.rows is None else len(self.rows)
        self.reorder_cache(torch.arange(rows).repeat_interleave(repeats))

    def reset(self) -> None:
        checks = self.checks_masks
        self.__init__(self.index, self.select, self.window, self.slack, self.backend, self.policy)  # type: ignore[misc]
        self.checks_masks = checks

    # ---- what it holds

    def held(self) -> list[MemoryUsage]:
        """Per row."""
        return [] if self.rows is None else self.rows.held()

    @property
    def stored_tokens(self) -> int:
        """KV slots in use, over all rows and heads."""
        if not self.is_initialized:
            return 0
        return self.keys[..., 0].numel() if self.rows is None else sum(held.slots for held in self.held())

    @property
    def storage_bytes(self) -> int:
        """Bytes of storage on the device, slack included."""
        if not self.is_initialized:
            return 0
        if self.rows is not None:
            return self.rows.storage_bytes
        return sum(t.untyped_storage().nbytes() for t in (self.keys, self.values))
