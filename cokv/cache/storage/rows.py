"""What every store of a layer offers, and what it is filled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cokv.cache.prefill import PrefillLayer
from cokv.model.device import sent

# kept[row][kv_head]: positions in the row's prompt, ascending; those that a view says are unread, too
Kept = Sequence[Sequence[torch.Tensor]]


@dataclass(frozen=True)
class MemoryUsage:
    """What one row holds in one layer, or in all."""

    slots: int  # KV slots in use, a compensation token included
    bytes: int  # of these, with notes, digests, scales and zero points
    host_bytes: int = 0  # pages in CPU memory, beside `bytes`
    slack_bytes: int | None = None  # its share of what its store has allocated beyond; None where storage is shared

    def __add__(self, other: MemoryUsage) -> MemoryUsage:
        return MemoryUsage(
            self.slots + other.slots,
            self.bytes + other.bytes,
            self.host_bytes + other.host_bytes,
            None if self.slack_bytes is None or other.slack_bytes is None else self.slack_bytes + other.slack_bytes,
        )


class Rows(Protocol):
    """Some rows of one layer."""

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Queries [rows, num_heads, t, head_dim] over what is stored and the t new tokens (causal among these),
        keys and values [rows, num_kv_heads, t, head_dim], which are then stored. Output as queries.

        sinks [num_heads]: logits without a token, see cokv/cache/attention/backend.py.
        """
        ...

    def select(self, rows: torch.Tensor, copies: bool) -> None:
        """Row i becomes old row rows[i]. With `copies` a row may be taken twice; without, storage stays in place."""
        ...

    @property
    def can_crop(self) -> bool:
        """Whether the newest tokens that were read after the prompt can be dropped again."""
        ...

    def crop(self, count: int) -> None:
        """Drops the newest `count` tokens of every head."""
        ...

    def held(self) -> list[MemoryUsage]:
        """Per row; slack is shared out by the layer."""
        ...

    @property
    def storage_bytes(self) -> int:
        """All that is allocated for these rows on the device, slack included."""
        ...


def gathered(
    views: Sequence[PrefillLayer], kept: Kept, slack: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The kept tokens' keys and values [slots, head_dim], row after row and head after head, and how many each has.

    `views`: one for all rows, or one per row. `slack`: so many slots follow each head's tokens. Positions
    may lie on any device; those that are unread have no keys yet. Copies each token once, whatever the strides of the
    prompt's keys, and never waits for their device.
    """
    kept = without_unread(views, kept)
    counts = [[p.numel() for p in row] for row in kept]
    lengths = sent(torch.tensor(counts, dtype=torch.int64).reshape(-1), views[0].keys.device)
    if len(views) == 1:
        return *_taken(views[0], [p for row in kept for p in row], lengths, slack), lengths
    sizes = [sum(row) + slack * len(row) for row in counts]
    k, v = (x.new_empty(sum(sizes), x.shape[2]) for x in (views[0].keys, views[0].values))
    by_row = lengths.split(views[0].keys.shape[0])
    for view, row, lens, some_k, some_v in zip(views, kept, by_row, k.split(sizes), v.split(sizes), strict=True):
        for target, source in zip((some_k, some_v), _taken(view, row, lens, slack), strict=True):
            target.copy_(source)
    return k, v, lengths


def _taken(
    view: PrefillLayer, kept: Sequence[torch.Tensor], lengths: torch.Tensor, slack: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one prompt: kept positions of its heads, in turn for any number of rows; lengths int64 [len(kept)]."""
    (heads, seq_len, _), device, segments = view.keys.shape, view.keys.device, len(kept)
    tokens = sum(p.numel() for p in kept)
    slots = tokens + slack * segments
    if not slots or not seq_len:
        return tuple(x.new_zeros(slots, x.shape[2]) for x in (view.keys, view.values))  # type: ignore[return-value]
    order = torch.arange(segments, device=device)
    position = sent(torch.cat(list(kept)), device)
    if slack:
        place = torch.arange(tokens, device=device)
        place += torch.repeat_interleave(order * slack, lengths, output_size=tokens)
        position = torch.zeros(slots, dtype=torch.int64, device=device).index_copy_(0, place, position)
    head = torch.repeat_interleave(order % heads, lengths + slack, output_size=slots)
    return view.keys[head, position], view.values[head, position]


def without_unread(views: Sequence[PrefillLayer], kept: Kept) -> Kept:
    """Those that the views hold."""
    if not any(view.unread for view in views):
        return kept
    return [[p[p < view_of(views, row).keys.shape[1]] for p in heads] for row, heads in enumerate(kept)]


def view_of(views: Sequence[PrefillLayer], row: int) -> PrefillLayer:
    return views[0] if len(views) == 1 else views[row]


def one_by_one(
    rows: Rows,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Several new tokens read in turn, for rows whose storage changes with each of them."""
    steps = [slice(i, i + 1) for i in range(queries.shape[2])]
    return torch.cat(
        [rows.attend(queries[:, :, i], keys[:, :, i], values[:, :, i], scaling, sinks) for i in steps], dim=2
    )


def segments_of(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Segments of these rows, row after row."""
    return (rows[:, None] * heads + torch.arange(heads, device=rows.device)).reshape(-1)
