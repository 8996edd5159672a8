"""Which tokens a cache has read: what a user joins a question to, in another turn or another process."""

from __future__ import annotations

import torch


class TokensRead:
    """Ids of all rows, with room for those to come: one small copy per forward pass."""

    def __init__(self) -> None:
        self.room: torch.Tensor | None = None  # int64 [rows, capacity]
        self.known = 0  # how many of each row
        self.complete = True  # whether all that was read came as ids

    def read(self, before: int, ids: torch.Tensor | None) -> None:
        """A forward pass reads ids [rows, t], int64, or embeddings: None. `before`: tokens that were read earlier."""
        if ids is None or before > self.known or (self.room is not None and before and len(ids) != len(self.room)):
            self.complete = False
        if ids is None or not self.complete:
            return
        if not before:
            self.room, self.known = None, 0
        end = before + ids.shape[1]
        with torch.inference_mode(False), torch.no_grad():  # room is written in place, in whatever mode
            if self.room is None or self.room.device != ids.device or end > self.room.shape[1]:
                more = torch.zeros(len(ids), max(end + 64, end * 5 // 4), dtype=ids.dtype, device=ids.device)
                if self.room is not None:
                    more[:, :before] = self.room[:, :before]
                self.room = more
            self.room[:, before:end] = ids
        self.known = end

    def first(self, count: int) -> torch.Tensor | None:
        """int64 [rows, count], None where they are not known."""
        if not self.complete or self.room is None or count > self.known:
            return None
        return self.room[:, :count]

    def select(self, rows: torch.Tensor) -> None:
        """Row i becomes old row rows[i]."""
        if self.room is not None:
            with torch.inference_mode(False):
                self.room = self.room[rows.to(self.room.device)]
