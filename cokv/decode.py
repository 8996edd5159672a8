"""Rows of Selections over one Prefill -> tokens, greedily, all rows in one batch. Rows that have ended leave it.

The first answer token comes from the uncompressed prefill (`first_token = "prefill"`), as in the released codes, unless a suffix (the
question, in question-agnostic compression) is read on the compressed cache first. Knows nothing of methods, tasks or text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import PreTrainedModel

from cokv.attention import buckets
from cokv.attention.interface import engine
from cokv.cache import Attend, RaggedCache
from cokv.policies.growth import EvictOldest, Grow, Policy
from cokv.prefill import Prefill, check_prompt
from cokv.shared import SharedCache
from cokv.types import CokvError, Selection

Way = Literal["ragged", "shared"]


@dataclass(frozen=True)
class Stop:
    """When a row ends: at any of `stop_ids` (which it keeps) once it has `min_new_tokens`, or at `max_new_tokens`."""

    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0


@dataclass(frozen=True)
class Row:
    """One Selection to decode, and what happens to its cache meanwhile."""

    selection: Selection
    policy: Policy = field(default_factory=Grow)


@dataclass(frozen=True)
class Decoded:
    """`tokens`: generated ids, the stop token included. Bytes are counted over all layers that have a budget, at the first step."""

    tokens: list[int]
    kept_tokens: int
    kept_bytes: int
    slack_bytes: int | None  # of this row's ragged storage; None where the prompt's storage is shared


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Sequence[Row],
    stop: Stop,
    way: Way = "ragged",
    suffix: torch.Tensor | None = None,
    max_bytes: int = 1 << 30,
    attend: Attend = buckets.attend,
) -> list[Decoded]:
    """Greedy answers, one per row, in order.

    `suffix`: int64 [t] read after the prompt on the compressed cache. `max_bytes` bounds a batch's own storage: ragged K and V, or the
    shared way's attention weights; a single row may exceed it.
    """
    new_tokens = stop.max_new_tokens + (0 if suffix is None else suffix.numel())
    check_prompt(prefill.input_ids, prefill.shape.context_length, new_tokens)
    if way == "shared" and any(not isinstance(row.policy, Grow) for row in rows):
        raise CokvError("the shared way keeps every generated token; rows that evict while decoding need way='ragged'")
    with engine(model):
        return [
            done
            for batch in _batches(prefill, rows, way, max_bytes)
            for done in _decode_batch(model, prefill, batch, stop, way, suffix, new_tokens, attend)
        ]


def _batches(prefill: Prefill, rows: Sequence[Row], way: Way, max_bytes: int) -> Iterator[list[Row]]:
    """Consecutive rows whose storage fits `max_bytes` together."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        if way == "ragged":
            cost = row.selection.total * prefill.token_bytes
        else:  # one layer's attention weights, in float32, with their masked copy
            cost = 8 * prefill.shape.num_heads * prefill.seq_len
        if batch and size + cost > max_bytes:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += cost
    if batch:
        yield batch


def _decode_batch(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Sequence[Row],
    stop: Stop,
    way: Way,
    suffix: torch.Tensor | None,
    new_tokens: int,
    attend: Attend,
) -> list[Decoded]:
    device = model.device
    selections, policies = [row.selection for row in rows], [row.policy for row in rows]
    cache: RaggedCache | SharedCache
    if way == "ragged":
        cache = RaggedCache.of(prefill, selections, policies, attend=attend)
        slack = [(cache.storage_bytes - cache.stored_tokens * prefill.token_bytes) // len(rows)] * len(rows)
        assert cache.stored_tokens == sum(s.total for s in selections)
    else:
        cache, slack = SharedCache(prefill, selections, new_tokens), [None] * len(rows)

    position = prefill.seq_len
    if suffix is None:
        last = prefill.first_logits.argmax().expand(len(rows))
    else:
        last = _step(model, cache, suffix.to(device).expand(len(rows), -1), position)
        position += suffix.numel()
    tokens: list[list[int]] = [[] for _ in rows]
    active = list(range(len(rows)))
    while True:
        going = []
        for place, (row, token) in enumerate(zip(active, last.tolist(), strict=True)):
            tokens[row].append(token)
            ended = token in stop.stop_ids and len(tokens[row]) > stop.min_new_tokens
            if not ended and len(tokens[row]) < stop.max_new_tokens:
                going.append(place)
        if not going:
            break
        if len(going) < len(active):
            keep = torch.tensor(going)
            cache.keep_rows(keep)
            last, active = last[keep.to(last.device)], [active[i] for i in going]
        last = _step(model, cache, last[:, None], position)
        position += 1
    return [
        Decoded(made, row.selection.total, row.selection.total * prefill.token_bytes, spare)
        for made, row, spare in zip(tokens, rows, slack, strict=True)
    ]


def _step(model: PreTrainedModel, cache: RaggedCache | SharedCache, ids: torch.Tensor, position: int) -> torch.Tensor:
    """The next token of each row: ids [rows, t] -> int64 [rows]."""
    positions = torch.arange(position, position + ids.shape[1], device=ids.device)
    logits = model(
        input_ids=ids,
        past_key_values=cache,
        position_ids=positions.expand(ids.shape[0], -1),
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits[:, -1].argmax(-1)


__all__ = ["Decoded", "EvictOldest", "Grow", "Row", "Stop", "Way", "decode"]
