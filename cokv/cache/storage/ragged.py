"""Flat storage: K and V are `[slots, channels]`, and a *segment* (one row's KV head) is a stretch of slots.

Each segment has a start, a length and room behind it. Equal slack after every segment makes appending a scatter of one
slot each; when it is used up the storage is laid out again with more. A segment with a cap has no slots beyond it.
Knows no rule and no transformers cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cokv.cache.attention.backend import Attend, Backend, softcap_of
from cokv.cache.attention.choose import Step, step_of

SLACK = 16  # slots behind each segment at first
GROWTH = 8  # storage that is full is laid out anew with this part of the mean length
UNCAPPED = torch.iinfo(torch.int64).max


class RaggedStorage:
    """Segments of tokens. keys, values [sum(lengths), channels], segment after segment; lengths int64 [segments]."""

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        lengths: torch.Tensor,
        slack: int,
        backend: Attend,
        laid_out: bool = False,
    ) -> None:
        """laid_out: keys and values have `slack` slots behind each segment already, and are taken as they are."""
        self.slack, self.backend, self.lengths = slack, backend, lengths.clone()
        self.widths = keys.shape[1], values.shape[1]
        self.dtype, self.device = keys.dtype, keys.device
        self.caps: torch.Tensor | None = None  # the most slots that a segment will ever need: int64 [segments]
        self.stale = False  # caps have come that the storage is not laid out for
        self.k, self.v = keys, values
        if laid_out:
            self.room: float = slack
            self.capacities = lengths + slack
            self.starts = self.capacities.cumsum(0) - self.capacities
        else:
            self._lay_out(lengths.cumsum(0) - lengths, slack)

    def _lay_out(self, starts: torch.Tensor, slack: int, tokens: int | None = None) -> None:
        """Moves the segments that begin at `starts` into fresh storage, with `slack` free slots each, up to its cap.

        tokens: of all segments together, where the host knows it; else it is asked for.
        """
        # How many steps there is room for: a plain number, so appending never waits for the device.
        self.room = slack
        self.capacities = self.lengths + slack
        if self.caps is not None:
            self.capacities = torch.maximum(torch.minimum(self.capacities, self.caps), self.lengths)
            self.room = slack if bool((self.capacities < self.caps).any()) else math.inf
        self.stale = False
        self.starts = self.capacities.cumsum(0) - self.capacities
        # Every new slot's old one; what slack is filled with does not matter.
        slots = None if tokens is None or self.caps is not None else tokens + slack * len(starts)
        source = torch.repeat_interleave(starts - self.starts, self.capacities, output_size=slots)
        source += torch.arange(len(source), device=self.device)
        self.k, self.v = (
            part.index_select(0, source.clamp(max=len(part) - 1)) if len(part) else part.new_zeros(len(source), width)
            for part, width in zip((self.k, self.v), self.widths, strict=True)
        )

    def make_room(self, at_most: Sequence[int] | None = None) -> None:
        """For one more token per segment. at_most: bounds of the lengths, known on the host; exact without caps."""
        if self.stale:
            self._lay_out(self.starts, self.slack)
        elif self.room == 0 and at_most is not None and self.caps is None:
            tokens = sum(at_most)
            self._lay_out(self.starts, max(self.slack, tokens // len(at_most) // GROWTH), tokens)
        elif self.room == 0:
            self._lay_out(self.starts, max(self.slack, int(self.lengths.float().mean()) // GROWTH))

    def append(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        places: torch.Tensor | None = None,
        grows: torch.Tensor | None = None,
        at_most: Sequence[int] | None = None,
    ) -> None:
        """One token per segment: keys, values [segments, head_dim].

        It goes behind the segment's last token; or to `places` int64 [segments], and only segments that `grows`
        (bool) get longer by it. at_most: see `make_room`.
        """
        self.make_room(at_most)
        slots = self.starts + (self.lengths if places is None else places)
        self.k[slots], self.v[slots] = keys, values
        self.lengths += 1 if grows is None else grows
        self.room -= 1

    def step(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        places: torch.Tensor | None = None,
        grows: torch.Tensor | None = None,
        needs_lse: bool = True,
        weights: torch.Tensor | None = None,
        at_most: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """`append` and `attend` in one call; None, and nothing done, where the backend has no such call.

        weights: float32 [segments, rows, width], is filled with the attention weights of segments of at most so many
        tokens. at_most: bounds of the lengths before it, see reference.attend.
        """
        step = self._one_call(weights is not None)
        if step is None:
            return None
        self.make_room(at_most)
        result = step(
            queries, self.k, self.v, self.starts, self.lengths, scaling, keys, values, places, grows,
            softcap_of(self.backend), weights, needs_lse, at_most,
        )  # fmt: skip
        self.room -= 1
        return result

    def _one_call(self, weights: bool) -> Step | None:
        attend = self.backend.attend if isinstance(self.backend, Backend) else self.backend
        return step_of(attend, self.device, self.dtype, self.widths[1], softcap_of(self.backend), weights)

    @property
    def gives_weights(self) -> bool:
        """Whether `step` does anything, and fills weights."""
        return self._one_call(True) is not None

    def drop_newest(self, count: int) -> None:
        """Every segment forgets its newest `count` tokens."""
        self.lengths = self.lengths - count
        self.room += count

    @property
    def fits(self) -> bool:
        """Whether every segment has the slots of its cap, and these lie one behind the other in the segments' order."""
        return self.caps is not None and self.room == math.inf and not self.stale

    def cap(self, segments: torch.Tensor, slots: torch.Tensor) -> None:
        """These segments never hold more than `slots`, int64 [segments]; from the next token on they have no slack."""
        if self.caps is None:
            self.caps = torch.full_like(self.lengths, UNCAPPED)
        self.caps[segments], self.stale = slots, True

    def attend(self, queries: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        """queries [segments, rows, head_dim] -> output likewise, log-sum-exp [segments, rows]."""
        return self.backend(queries, self.k, self.v, self.starts, self.lengths, scaling)

    def append_and_attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`append` behind each segment's last token, and `attend`: one call where the backend has it."""
        result = self.step(queries, keys, values, scaling)
        if result is None:
            self.append(keys, values)
            return self.attend(queries, scaling)
        out, lse = result
        assert lse is not None
        return out, lse

    def copy_segments(self, segments: torch.Tensor) -> None:
        """Segment i becomes a copy of old segment segments[i], in fresh storage."""
        self.lengths, self.caps = self.lengths[segments], None if self.caps is None else self.caps[segments]
        self._lay_out(self.starts[segments], self.slack)

    def keep_segments(self, segments: torch.Tensor) -> None:
        """Forgets the other segments without moving storage."""
        self.starts, self.lengths, self.capacities = (
            part[segments] for part in (self.starts, self.lengths, self.capacities)
        )
        self.caps = None if self.caps is None else self.caps[segments]

    @property
    def token_bytes(self) -> int:
        """Of one slot's K and V."""
        return sum(self.widths) * self.k.element_size()

    @property
    def free_bytes(self) -> torch.Tensor:
        """Slack of every segment: int64 [segments]."""
        return (self.capacities - self.lengths) * self.token_bytes

    @property
    def storage_bytes(self) -> int:
        """Of the present segments, slack included. What others have left goes when the storage is laid out again."""
        return int(self.capacities.sum()) * self.token_bytes


def merge_attention_states(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over several sets of tokens, from (output [..., head_dim], log-sum-exp [...]) over each of them.

    Rounded to the outputs' dtype once, at the end.
    """
    out, lse = parts[0]
    dtype, wide = out.dtype, torch.promote_types(out.dtype, torch.float32)
    out = out.to(wide)
    for more, more_lse in parts[1:]:
        # The first part's share is a sigmoid. Where neither has a token, zeros stay zeros.
        share = (lse - more_lse).nan_to_num(0.0).sigmoid().to(wide)
        out, lse = torch.lerp(more.to(wide), out, share[..., None]), torch.logaddexp(lse, more_lse)
    return out.to(dtype), lse
