"""One slot per segment that stands for all its dropped tokens: a mean that grows, and an attention part of its own."""

from __future__ import annotations

import math

import torch

from cokv.cache.attention.reference import capped
from cokv.cache.storage.evictors import OldestEvictor
from cokv.cache.storage.ragged import RaggedStorage


class CompensationToken(OldestEvictor):
    """A ring whose overwritten tokens join the mean. keys, values [watched, head_dim]; counts float32 [watched]."""

    def __init__(
        self,
        segments: torch.Tensor,
        limits: torch.Tensor,
        sinks: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        counts: torch.Tensor,
    ) -> None:
        """`limits`: slots beside the compensation token."""
        super().__init__(segments, limits.clamp(min=1), sinks)
        self.keys, self.values, self.counts = keys.float(), values.float(), counts

    def next_places(self, store: RaggedStorage) -> torch.Tensor:
        places = super().next_places(store)
        slots = store.starts[self.segments] + places
        self.counts = self.counts + 1
        share = self.counts.reciprocal()[:, None]
        self.keys = self.keys.lerp(store.k[slots].float(), share)
        self.values = self.values.lerp(store.v[slots].float(), share)
        return places

    def place(
        self, store: RaggedStorage, places: torch.Tensor, grows: torch.Tensor, kinds: torch.Tensor | None = None
    ) -> None:
        full = self.full(store)
        super().place(store, places, grows)
        if full:
            return
        goes = ~grows[self.segments]
        slots = store.starts[self.segments] + torch.where(goes, places[self.segments], 0)
        self.counts = self.counts + goes
        share = (goes / self.counts)[:, None]
        self.keys = torch.where(goes[:, None], self.keys.lerp(store.k[slots].float(), share), self.keys)
        self.values = torch.where(goes[:, None], self.values.lerp(store.v[slots].float(), share), self.values)

    def attend(
        self, queries: torch.Tensor, scaling: float, softcap: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """queries [watched, rows, head_dim] over this one token: output likewise, log-sum-exp [watched, rows].

        The cap is on the mean token's logit, which then counts once for each token it stands for.
        """
        logits = capped((queries.float() @ self.keys[..., None])[..., 0] * scaling, softcap)
        logits = logits + self.counts.log()[:, None]
        out = self.values[:, None].expand(-1, queries.shape[1], -1)
        return out.to(queries.dtype), logits

    def select(self, picked: torch.Tensor, segments: torch.Tensor) -> None:
        super().select(picked, segments)
        self.keys, self.values, self.counts = self.keys[picked], self.values[picked], self.counts[picked]

    def segment_bytes(self) -> int:
        """The token itself, always in float32, and its count."""
        return 4 * (2 * self.keys.shape[1] + 1)


def mean_of_dropped(tokens: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of tokens [seq_len, head_dim] that are not in kept: float32 [head_dim]."""
    out = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    out[kept.to(tokens.device)] = False
    assert math.prod(out.shape) > kept.numel(), "a head that dropped nothing has no compensation token"
    return tokens[out].float().mean(dim=0)
