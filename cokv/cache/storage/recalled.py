"""Rows whose complete pages lie in CPU memory, with a few of them, chosen anew for each query, beside the model.

Pages are numbered per segment as they are filled. With the model are digests of all complete pages, and of each segment
a stretch of `limit` slots. The page that is being filled begins at its start. Complete pages lie in *places* that are
counted from its end; the first so many are whole, and of the page in the next place the newest tokens are there, down
to those that the newest page has overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.cache.attention import choose, pages
from cokv.cache.attention.backend import Attend, implementation, softcap_of, with_sinks
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.filling import Filling
from cokv.cache.storage.host_pages import HostPages
from cokv.cache.storage.places import nbytes
from cokv.cache.storage.ragged import merge_attention_states
from cokv.cache.storage.rows import Kept, MemoryUsage, gathered, one_by_one, segments_of
from cokv.model.device import sent

KEYS, VALUES = 0, 1
FUSED = (choose.AUTO, "compiled")  # attention by these names is one function with ranking, where that can be had
Pair = tuple[torch.Tensor, torch.Tensor]  # of keys and values


class RecalledRows:
    """See `Rows`. All rows of one store have the same policy."""

    def __init__(
        self, views: Sequence[PrefillLayer], kept: Kept, policies: Sequence[Recall], slack: int, backend: Attend
    ) -> None:
        self.policy, self.backend = policies[0], backend
        page, self.heads = self.policy.page, views[0].keys.shape[0]
        keys, values, lengths = gathered(views, kept)
        device, segments = keys.device, len(lengths)
        self.dim = keys.shape[1]
        self.counts, self.filled = lengths // page, lengths % page  # complete pages, tokens of the next
        self.count_filling()
        self.rows = torch.arange(segments, device=device)  # which stretch and which digests are the segment's
        # Which page lies in which place; -1: none.
        self.numbers = torch.full((segments, self.policy.places), -1, device=device)
        self.k, self.v = (keys.new_zeros(segments * self.policy.slots, self.dim) for _ in (KEYS, VALUES))

        before = lengths.cumsum(0) - lengths
        place = torch.arange(len(keys), device=device) - torch.repeat_interleave(before, lengths)
        newest = place - torch.repeat_interleave(self.counts * page, lengths)  # place in the page that is being filled
        begun = newest >= 0
        slots = torch.repeat_interleave(self.starts, lengths)[begun] + newest[begun]
        self.k[slots], self.v[slots] = keys[begun], values[begun]

        complete = torch.stack([part[~begun].view(-1, page, self.dim) for part in (keys, values)], dim=1)
        self.host = HostPages(complete, self.counts)
        owner = torch.repeat_interleave(self.rows, self.counts)
        number = torch.arange(len(complete), device=device) - (self.counts.cumsum(0) - self.counts)[owner]
        wide = int(self.counts.max()) + 1 if segments else 1
        self.low, self.high = (keys.new_zeros(segments, wide, self.dim) for _ in range(2))
        self.low[owner, number], self.high[owner, number] = complete[:, KEYS].amin(1), complete[:, KEYS].amax(1)

    def count_filling(self) -> None:
        """Asks the device once how full each newest page is."""
        self.filling = Filling(self.filled.tolist(), [self.policy.page] * len(self.filled))

    @property
    def starts(self) -> torch.Tensor:
        """First slot of each segment, int64 [segments]."""
        return self.rows * self.policy.slots

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
        if full := self.filling.full_segments():
            self._put_away(full)
        self.filling.one_more()
        grouped = queries.reshape(rows * self.heads, num_heads // self.heads, dim)
        new = keys.reshape(-1, dim), values.reshape(-1, dim)
        fused = queries.dtype == torch.float32 and self.steps_apart is None
        out, lse = (self._fused_step if fused else self._step)(grouped, new, scaling)
        return with_sinks(out, lse, sinks)[0].view(rows, num_heads, 1, dim)

    @property
    def steps_apart(self) -> str | None:
        """Why ranking, copying and attention are steps of their own; None where one function does all."""
        name = choose.name_of(implementation(self.backend))
        if name not in FUSED:
            return f"attention {name!r} attends what it is given"
        return pages.why_not(self.k.device, self.k.dtype)

    def _fused_step(self, queries: torch.Tensor, new: Pair, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        """As `_step`, on a CPU."""
        return pages.step(
            queries,
            new,
            (self.k, self.v),
            self.rows,
            self.counts,
            self.filled,
            self.numbers,
            (self.low, self.high),
            self.host.pool,
            self.host.index,
            self.policy.slots,
            scaling,
            softcap_of(self.backend),
        )

    def _step(self, queries: torch.Tensor, new: Pair, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores a token per segment, brings the pages that it wants, and attends what is then there.

        queries [segments, group_size, head_dim]; new: keys and values [segments, head_dim]. Output as queries, and
        log-sum-exp [segments, group_size].
        """
        slots = self.starts + self.filled
        self.k[slots], self.v[slots] = new
        self.filled = self.filled + 1
        recalled = self._recall(queries)
        parts = [
            self.backend(queries, self.k, self.v, starts, lengths, scaling)
            for starts, lengths in (
                (self.starts + self.policy.slots - recalled, recalled),
                (self.starts, self.filled),
            )
        ]
        return merge_attention_states(parts)

    def _put_away(self, full: list[int]) -> None:
        """The newest pages of these segments, which are full, go to CPU memory."""
        on_host = torch.tensor(full)
        segments = sent(on_host, self.rows.device)
        numbers, rows = self.counts[segments], self.rows[segments]
        slots = self.starts[segments, None] + torch.arange(self.policy.page, device=segments.device)
        pages = torch.stack([self.k[slots], self.v[slots]], dim=1)
        numbers_on_host = numbers.cpu()
        self.host.put(on_host, numbers_on_host, pages)
        if int(numbers_on_host.max()) >= self.low.shape[1]:
            more = max(1, self.low.shape[1] // 4)
            self.low, self.high = (torch.nn.functional.pad(d, (0, 0, 0, more)) for d in (self.low, self.high))
        self.low[rows, numbers], self.high[rows, numbers] = pages[:, KEYS].amin(1), pages[:, KEYS].amax(1)
        self.counts = self.counts.index_add(0, segments, torch.ones_like(segments))
        self.filled = self.filled.index_fill(0, segments, 0)
        self.filling.gave(full, self.policy.page)
        overwritten = self._first_slots < self.policy.page
        self.numbers[segments] = self.numbers[segments].masked_fill(overwritten, -1)

    @property
    def _first_slots(self) -> torch.Tensor:
        """Of each place, in the stretch: int64 [places]. The last place may begin before it."""
        place = torch.arange(self.policy.places, device=self.rows.device)
        return self.policy.slots - (place + 1) * self.policy.page

    def _recall(self, queries: torch.Tensor) -> torch.Tensor:
        """Brings the pages that these queries [segments, group_size, head_dim] want to places of pages that go.

        Returns how many of their tokens each segment attends, int64 [segments].
        """
        whole, rest = (n[:, None] for n in self.policy.room(self.counts, self.filled))
        ranked = self.ranked(queries)
        place = torch.arange(self.policy.places, device=queries.device)
        first, cut = place < whole, (place == whole) & (rest > 0)
        same = (self.numbers[:, :, None] == ranked[:, None]) & first[:, :, None] & first[:, None]
        free, missing = first & ~same.any(2), first & ~same.any(1)  # in each segment as many of one as of the other
        wanted = torch.where(cut, ranked, self.numbers).masked_fill(~first & ~cut, -1)
        in_turn = ranked.gather(1, missing.byte().argsort(dim=1, descending=True, stable=True))
        wanted = torch.where(free, in_turn.gather(1, (free.cumsum(1) - 1).clamp(min=0)), wanted)
        # Which pages must come is for the host to read: the one wait of a step, here and nowhere else.
        asked = wanted.masked_fill(wanted == self.numbers, -1).cpu()
        self.numbers = wanted
        segments, places = (asked >= 0).nonzero().unbind(1)
        if len(segments):
            pages = self.host.get(segments, asked[segments, places])
            self._bring(sent(segments, wanted.device), sent(places, wanted.device), pages)
        return (whole * self.policy.page + rest)[:, 0]

    def _bring(self, segments: torch.Tensor, places: torch.Tensor, pages: torch.Tensor) -> None:
        """Pages [n, 2, page, head_dim] to their places, but for the tokens where the newest page lies."""
        first = self._first_slots[places]
        covered = (self.filled[segments] - first).clamp(min=0)
        # Those would be the oldest: in their stead the oldest token that fits is written once more.
        token = torch.maximum(torch.arange(self.policy.page, device=first.device), covered[:, None])
        slots = (self.starts[segments] + first)[:, None] + token
        each = torch.arange(len(pages), device=first.device)[:, None]
        self.k[slots], self.v[slots] = pages[each, KEYS, token], pages[each, VALUES, token]

    def ranked(self, queries: torch.Tensor) -> torch.Tensor:
        """Numbers of the complete pages in the order in which these queries want them: int64 [segments, places], of
        which a segment with fewer pages has fewer that mean anything.
        """
        by_stretch = queries.new_zeros(len(self.low), *queries.shape[1:])
        counts = self.counts.new_zeros(len(self.low))
        by_stretch[self.rows], counts[self.rows] = queries, self.counts
        scores = self.policy.scores(by_stretch, self.low, self.high, counts)[self.rows]
        numbers = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.policy.places]
        return torch.nn.functional.pad(numbers, (0, self.policy.places - numbers.shape[1]), value=-1)

    def select(self, rows: torch.Tensor, copies: bool) -> None:
        segments = segments_of(rows.to(self.rows.device), self.heads)
        self.rows, self.counts, self.filled, self.numbers = (
            part[segments] for part in (self.rows, self.counts, self.filled, self.numbers)
        )
        self.host.select(segments)
        self.filling.select(segments.tolist())
        if copies:
            self.low, self.high = self.low[self.rows], self.high[self.rows]
            self.k, self.v = (
                part.view(-1, self.policy.slots, self.dim)[self.rows].flatten(0, 1) for part in (self.k, self.v)
            )
            self.rows = torch.arange(len(segments), device=segments.device)

    can_crop = True

    def crop(self, count: int) -> None:
        """No page is lost: one that the newest tokens have left behind is the newest again."""
        page, before = self.policy.page, self.filled
        tokens = self.counts * page + self.filled - count
        again = tokens < self.counts * page
        self.counts, self.filled = tokens // page, tokens % page
        segments = (again & (self.filled > 0)).nonzero()[:, 0]
        if len(segments):
            slots = self.starts[segments, None] + torch.arange(page, device=segments.device)
            self.k[slots], self.v[slots] = self.host.get(segments, self.counts[segments]).unbind(1)
        written = torch.where(again & (self.filled > 0), page, before)[:, None]
        self.numbers = self.numbers.masked_fill(self._first_slots < written, -1)
        self.host.keep(self.counts)
        self.filling = Filling(self.filled.tolist(), self.filling.full)

    def held(self) -> list[MemoryUsage]:
        """Slots: what may lie with the model, whether it has been asked for or not. Which page lies where is charged
        with the digests.
        """
        token, digest = 2 * self.dim * self.k.element_size(), 2 * self.dim * self.low.element_size()
        slots = (self.counts * self.policy.page + self.filled).clamp(max=self.policy.slots)
        size = slots * token + self.counts * digest + self.policy.places * self.numbers.element_size()
        by_row = [part.view(-1, self.heads).sum(1).tolist() for part in (slots, size)]
        return [MemoryUsage(*row) for row in zip(*by_row, self.host.row_bytes(self.heads), strict=True)]

    @property
    def storage_bytes(self) -> int:
        """On the model's device as such: pages in CPU memory are not counted, also where that is the same."""
        return nbytes(self.low, self.high, self.k, self.v, self.rows, self.counts, self.filled, self.numbers)
