"""What every store of a layer offers, and what it is filled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cokv.cache.prefill import PrefillLayer

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


def gathered(views: Sequence[PrefillLayer], kept: Kept) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The kept tokens' keys and values [tokens, head_dim], row after row and head after head, and how many each has.

    `views`: one for all rows, or one per row. Positions that are unread have no keys yet.
    """
    kept = without_unread(views, kept)
    heads, _, dim = views[0].keys.shape
    device = views[0].keys.device
    lengths = torch.tensor([p.numel() for row in kept for p in row], dtype=torch.int64, device=device)
    if len(views) == 1:
        seq_len = views[0].keys.shape[1]
        head = torch.arange(len(lengths), device=device) % heads
        flat = [p for row in kept for p in row]
        flat_positions = torch.cat(flat).to(device) if flat else torch.empty(0, dtype=torch.int64, device=device)
        flat_positions = flat_positions + torch.repeat_interleave(head, lengths) * seq_len
        return views[0].keys.reshape(-1, dim)[flat_positions], views[0].values.reshape(-1, dim)[flat_positions], lengths
    parts = [(v.keys[h, p], v.values[h, p]) for v, row in zip(views, kept, strict=True) for h, p in enumerate(row)]
    return torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts]), lengths


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
