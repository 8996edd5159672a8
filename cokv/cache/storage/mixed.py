"""Rows of one layer whatever their policies, in stores of one or more kinds; to the layer, one store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from cokv.cache.attention.backend import Attend
from cokv.cache.policies.base import Policy
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.plain import PlainRows
from cokv.cache.storage.pruned import PrunedRows
from cokv.cache.storage.quantized import QuantizedRows
from cokv.cache.storage.recalled import RecalledRows
from cokv.cache.storage.rows import Kept, MemoryUsage, Rows
from cokv.model.device import sent


class MixedRows:
    """See `Rows`; `held` shares slack out evenly among the rows of a store."""

    def __init__(
        self, views: Sequence[PrefillLayer], kept: Kept, policies: Sequence[Policy], slack: int, backend: Attend
    ) -> None:
        self.device = views[0].keys.device
        kinds: dict[Any, list[int]] = {}
        for row, policy in enumerate(policies):
            kinds.setdefault(_kind(policy), []).append(row)
        self._take(
            [
                (
                    torch.tensor(rows),
                    store(
                        views if len(views) == 1 else [views[row] for row in rows],
                        [kept[row] for row in rows],
                        [policies[row] for row in rows],
                        slack,
                        backend,
                    ),
                )
                for (store, _), rows in kinds.items()
            ]
        )

    def _take(self, parts: list[tuple[torch.Tensor, Rows]]) -> None:
        self.parts = parts  # rows int64, on the CPU, and the store that has them
        self.places = [sent(rows, self.device) for rows, _ in parts]

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.parts)

    def tell(self, kinds: torch.Tensor | None) -> None:
        """What kind of tokens the next ones are, int64 [rows, t], where that is known."""
        kinds = None if kinds is None else kinds.to(self.device)
        for rows, (_, store) in zip(self.places, self.parts, strict=True):
            if isinstance(store, PlainRows):
                store.kinds = None if kinds is None else kinds[rows]

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if len(self.parts) == 1:
            return _attend(self.parts[0][1], queries, keys, values, scaling, sinks)
        out = torch.empty_like(queries)
        for rows, (_, store) in zip(self.places, self.parts, strict=True):
            out[rows] = _attend(store, queries[rows], keys[rows], values[rows], scaling, sinks)
        return out

    def select(self, rows: torch.Tensor, copies: bool) -> None:
        """In each store, those of its rows that stay; rows on the CPU."""
        parts = []
        for had, store in self.parts:
            place = torch.full((len(self),), -1)
            place[had] = torch.arange(len(had))
            picked = place[rows]
            if bool((picked >= 0).any()):
                store.select(picked[picked >= 0], copies)
                parts.append(((picked >= 0).nonzero()[:, 0], store))
        self._take(parts)

    @property
    def can_crop(self) -> bool:
        """Whether the newest tokens that were read after the prompt can be dropped again."""
        return all(store.can_crop for _, store in self.parts)

    def crop(self, count: int) -> None:
        """Drops the newest `count` tokens of every head."""
        for _, store in self.parts:
            store.crop(count)

    def held(self) -> list[MemoryUsage]:
        usage: dict[int, MemoryUsage] = {}
        for rows, store in self.parts:
            held = store.held()
            slack = (store.storage_bytes - sum(row.bytes for row in held)) // len(held)
            usage.update(zip(rows.tolist(), (replace(row, slack_bytes=slack) for row in held), strict=True))
        return [usage[row] for row in range(len(usage))]

    @property
    def storage_bytes(self) -> int:
        return sum(store.storage_bytes for _, store in self.parts)


def _kind(policy: Policy) -> tuple[type[Rows], Any]:
    """The store for rows of this policy, and what such rows must have in common to share one."""
    if isinstance(policy, Quantize):
        return QuantizedRows, (policy.group, policy.residual)
    if isinstance(policy, PruneChannels):
        return PrunedRows, policy
    if isinstance(policy, Recall):
        return RecalledRows, policy
    return PlainRows, None


def _attend(
    store: Rows,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Stores that merge what they read of several parts are given wide queries, so that the output is rounded once."""
    wide = queries.dtype if isinstance(store, PlainRows) else torch.promote_types(queries.dtype, torch.float32)
    return store.attend(queries.to(wide), keys, values, scaling, sinks).to(queries.dtype)
