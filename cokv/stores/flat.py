"""Flat storage: K and V are `[slots, channels]`, and a *segment* (one row's KV head) is a stretch of slots.

Each segment has a start, a length and room behind it. Equal slack after every segment makes appending a scatter of one
slot each; when it is used up the storage is laid out again with more. Knows no rule and no transformers cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Attend = Callable[..., tuple[torch.Tensor, torch.Tensor]]
SLACK = 32


class Flat:
    """Segments of tokens. keys, values [sum(lengths), channels], segment after segment; lengths int64 [segments]."""

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, slack: int, backend: Attend
    ) -> None:
        self.slack, self.backend, self.lengths = slack, backend, lengths
        self.widths = keys.shape[1], values.shape[1]
        self.dtype, self.device = keys.dtype, keys.device
        self._lay_out(slack)
        slots = self.slots(lengths)
        self.k[slots], self.v[slots] = keys, values

    def _lay_out(self, slack: int) -> None:
        """Fresh, unfilled storage for the present lengths, with `slack` free slots after every segment."""
        capacities = self.lengths + slack
        self.starts = capacities.cumsum(0) - capacities
        slots = int(capacities.sum())
        self.k, self.v = (torch.empty(slots, n, dtype=self.dtype, device=self.device) for n in self.widths)
        self.room = slack  # free slots of the fullest segment: a plain number, so appending never waits for the device

    def slots(self, lengths: torch.Tensor) -> torch.Tensor:
        """Flat slots of the first `lengths` tokens of every segment, segment after segment."""
        before = lengths.cumsum(0) - lengths
        offsets = torch.arange(int(lengths.sum()), device=self.device) - torch.repeat_interleave(before, lengths)
        return torch.repeat_interleave(self.starts, lengths) + offsets

    def append(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        places: torch.Tensor | None = None,
        grows: torch.Tensor | None = None,
    ) -> None:
        """One token per segment: keys, values [segments, head_dim].

        It goes behind the segment's last token; or to `places` int64 [segments], and only segments that `grows`
        (bool) get longer by it.
        """
        if self.room == 0:
            self._grow()
        slots = self.starts + (self.lengths if places is None else places)
        self.k[slots], self.v[slots] = keys, values
        self.lengths = self.lengths + (1 if grows is None else grows)
        self.room -= 1

    def _grow(self) -> None:
        """Lays the storage out again with more slack: a quarter of the mean length, at least the configured slack."""
        old, k, v = self.slots(self.lengths), self.k, self.v
        self._lay_out(max(self.slack, int(self.lengths.float().mean()) // 4))
        slots = self.slots(self.lengths)
        self.k[slots], self.v[slots] = k[old], v[old]

    def attend(self, queries: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        """queries [segments, rows, head_dim] -> output likewise, log-sum-exp [segments, rows]."""
        return self.backend(queries, self.k, self.v, self.starts, self.lengths, scaling)

    def copy_segments(self, segments: torch.Tensor) -> None:
        """Segment i becomes a copy of old segment segments[i], in fresh storage."""
        starts, lengths, k, v = self.starts[segments], self.lengths[segments], self.k, self.v
        self.lengths = lengths
        self._lay_out(self.slack)
        slots = self.slots(lengths)
        old = torch.repeat_interleave(starts - (lengths.cumsum(0) - lengths), lengths) + torch.arange(
            slots.numel(), device=self.device
        )
        self.k[slots], self.v[slots] = k[old], v[old]

    def keep_segments(self, segments: torch.Tensor) -> None:
        """Forgets the other segments without moving storage."""
        self.starts, self.lengths = self.starts[segments], self.lengths[segments]

    @property
    def token_bytes(self) -> int:
        """Of one slot's K and V."""
        return sum(self.widths) * self.k.element_size()

    @property
    def storage_bytes(self) -> int:
        """Slack included."""
        return self.k.untyped_storage().nbytes() + self.v.untyped_storage().nbytes()


def merged(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over several sets of tokens, from (output [..., head_dim], log-sum-exp [...]) over each of them.

    Rounded to the outputs' dtype once, at the end.
    """
    out, lse = parts[0]
    dtype, wide = out.dtype, torch.promote_types(out.dtype, torch.float32)
    out = out.to(wide)
    for more, more_lse in parts[1:]:
        total = torch.logaddexp(lse, more_lse)
        # Where neither has a token, zeros stay zeros.
        share = torch.where(more_lse > -torch.inf, (more_lse - total).exp(), 0).to(wide)[..., None]
        rest = torch.where(lse > -torch.inf, (lse - total).exp(), 0).to(wide)[..., None]
        out, lse = out * rest + more * share, total
    return out.to(dtype), lse
