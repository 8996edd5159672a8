"""Pages of tokens in CPU memory, for a model that may run elsewhere.

A page is written once and stays where it was put; an index says which segment has which. So rows that leave, or are
copied, move no page, and the places of pages that no segment has any more are filled again. For a GPU the memory is
pinned: what it asks for is gathered in a small pinned buffer, and copied from there while the CPU goes on.
"""

from __future__ import annotations

import torch

from cokv.cache.storage.places import free_places, nbytes


class HostPages:
    """Pages [2 (K and V), page, head_dim], by segment and by number in the segment."""

    def __init__(self, pages: torch.Tensor, counts: torch.Tensor) -> None:
        """pages [sum(counts), 2, page, head_dim] on the model's device, segment after segment; counts [segments]."""
        self.device, self.dtype, self.shape = pages.device, pages.dtype, pages.shape[1:]
        segments, numbers = len(counts), torch.arange(int(counts.max()) + 1 if len(counts) else 1)
        counts = counts.cpu()
        first = counts.cumsum(0) - counts
        # Where each page lies, int64 [segments, numbers]; -1: there is none.
        self.index = torch.where(numbers < counts[:, None], first[:, None] + numbers, -1)
        self.pool = self._memory(len(pages) + segments)  # a page to come for every segment
        self.pool[: len(pages)].copy_(pages)
        self.buffer = self._memory(segments) if self.device.type == "cuda" else None
        self._copied = torch.cuda.Event() if self.device.type == "cuda" else None  # the buffer is free again

    def _memory(self, pages: int) -> torch.Tensor:
        return torch.empty(pages, *self.shape, dtype=self.dtype, pin_memory=self.device.type == "cuda")

    def put(self, segments: torch.Tensor, numbers: torch.Tensor, pages: torch.Tensor) -> None:
        """pages [n, 2, page, head_dim], page numbers[i] of segments[i]; int64 [n] each."""
        segments, numbers = segments.cpu(), numbers.cpu()
        width = int(numbers.max()) + 1
        if width > self.index.shape[1]:
            more = max(width, self.index.shape[1] * 5 // 4) - self.index.shape[1]
            self.index = torch.nn.functional.pad(self.index, (0, more), value=-1)
        places, capacity = free_places(self._occupied(), len(self.pool), len(pages))
        if capacity > len(self.pool):
            old, self.pool = self.pool, self._memory(capacity)
            self.pool[: len(old)] = old
        self.pool[places] = pages.cpu()
        self.index[segments, numbers] = places

    def get(self, segments: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Pages [n, 2, page, head_dim] on the model's device; segments, numbers int64 [n]."""
        places = self.index[segments.cpu(), numbers.cpu()]
        if self.buffer is None:
            return self.pool[places].to(self.device)
        pages = torch.empty(len(places), *self.shape, dtype=self.dtype, device=self.device)
        for some, out in zip(places.split(len(self.buffer)), pages.split(len(self.buffer)), strict=True):
            self._wait()
            torch.index_select(self.pool, 0, some, out=self.buffer[: len(some)])
            out.copy_(self.buffer[: len(some)], non_blocking=True)
            if self._copied is not None:
                self._copied.record(torch.cuda.current_stream(self.device))
        return pages

    def _wait(self) -> None:
        """Until the buffer's last copy is done."""
        if self._copied is not None:
            self._copied.synchronize()

    def keep(self, counts: torch.Tensor) -> None:
        """Forgets all but the first pages of each segment; counts int64 [segments]."""
        self.index[torch.arange(self.index.shape[1]) >= counts.cpu()[:, None]] = -1

    def select(self, segments: torch.Tensor) -> None:
        """Segment i becomes old segment segments[i], which may be taken twice: pages are shared."""
        self.index = self.index[segments.cpu()]

    def _occupied(self) -> torch.Tensor:
        return self.index[self.index >= 0]

    def row_bytes(self, heads: int) -> list[int]:
        """Of each row of `heads` segments: its pages (of a shared page its part), and of all else an even part."""
        shared_by = torch.bincount(self._occupied(), minlength=len(self.pool))
        page = nbytes(self.pool) // max(len(self.pool), 1)
        shares = torch.where(self.index >= 0, 1 / shared_by.double()[self.index.clamp(min=0)], 0).sum(1)
        rows = (shares.view(-1, heads).sum(1) * page).round().long().tolist()
        rest = self.storage_bytes - int((shared_by > 0).sum()) * page
        return [row + rest // len(rows) for row in rows]

    @property
    def storage_bytes(self) -> int:
        """All that is allocated in CPU memory for pages."""
        return nbytes(self.pool) + (nbytes(self.buffer) if self.buffer is not None else 0)
