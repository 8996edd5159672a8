"""Rows of Selections over one Prefill -> tokens, greedily, all rows in one batch. Rows that have ended leave it.

The first answer token comes from the uncompressed prefill (`first_token = "prefill"`), as in the released codes,
unless a suffix (the question, in question-agnostic compression) is read on the compressed cache first. Knows nothing
of methods, tasks or text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel

from cokv.attention import buckets
from cokv.attention.interface import engine
from cokv.cache import RaggedCache
from cokv.policies.growth import EvictOldest, Grow, Policy
from cokv.prefill import Prefill, check_prompt
from cokv.ragged_layer import SLACK, Attend
from cokv.shared import SharedCache, SharedLayer
from cokv.types import CokvError, Selection

Way = Literal["ragged", "shared"]


@dataclass(frozen=True)
class Stop:
    """When a row ends: at any of `stop_ids`, which it keeps, or at `max_new_tokens`.

    As in transformers, no stop id is among the first `min_new_tokens`: the next best token is taken instead.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise CokvError(
                f"{self.min_new_tokens} to {self.max_new_tokens} new tokens were asked for; "
                "expected 0 <= min_new_tokens <= max_new_tokens, and at least one token"
            )


@dataclass(frozen=True)
class Row:
    """One Selection to decode, and what happens to its cache meanwhile."""

    selection: Selection
    policy: Policy = field(default_factory=Grow)


@dataclass(frozen=True)
class Decoded:
    """`tokens`: generated ids, a stop token included. Bytes: over all layers with a budget, before the first step."""

    tokens: list[int]
    kept_tokens: int
    kept_bytes: int
    slack_bytes: int | None  # of this row's ragged storage; None where the prompt's storage is shared


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Iterable[Row],
    stop: Stop,
    way: Way = "ragged",
    suffix: torch.Tensor | None = None,
    max_bytes: int = 1 << 30,
    attend: Attend = buckets.attend,
) -> list[Decoded]:
    """Greedy answers, one per row, in order. Rows are taken as batches need them, so a generator of many costs little
    memory.

    `suffix`: int64 [t] read after the prompt on the compressed cache. `max_bytes` bounds what a batch's rows hold: K
    and V with slack and new tokens, or the shared way's masks, new tokens and attention weights; a single row may
    exceed it.
    """
    if way not in get_args(Way):
        raise CokvError(f"unknown way to decode {way!r}; expected one of {', '.join(get_args(Way))}")
    if suffix is not None and (suffix.ndim != 1 or suffix.numel() == 0):
        raise CokvError(f"suffix ids have shape {list(suffix.shape)}, expected one non-empty row [t], or None")
    read = 1 if suffix is None else suffix.numel()
    new_tokens = stop.max_new_tokens + (0 if suffix is None else suffix.numel())
    check_prompt(prefill.input_ids, prefill.shape.context_length, new_tokens)
    with engine(model):
        return [
            done
            for batch in _batches(prefill, rows, way, new_tokens, read, max_bytes)
            for done in _decode_batch(model, prefill, batch, stop, way, suffix, new_tokens, attend)
        ]


def _batches(
    prefill: Prefill, rows: Iterable[Row], way: Way, new_tokens: int, queries: int, max_bytes: int
) -> Iterator[list[Row]]:
    """Consecutive rows whose storage fits `max_bytes` together."""
    heads = prefill.shape.num_layers * prefill.shape.num_kv_heads
    batch: list[Row] = []
    size = 0
    for row in rows:
        if way == "ragged":
            cost = (row.selection.total + heads * max(new_tokens, SLACK)) * prefill.token_bytes
        elif isinstance(row.policy, Grow):
            cost = SharedLayer.row_bytes(prefill, new_tokens, queries)
        else:
            raise CokvError(
                "the shared way keeps every generated token; rows that evict while decoding need way='ragged'"
            )
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
    slack: list[int | None]
    if way == "ragged":
        cache = RaggedCache.of(prefill, selections, policies, attend=attend)
        slack = [(cache.storage_bytes - cache.stored_tokens * prefill.token_bytes) // len(rows)] * len(rows)
        assert cache.stored_tokens == sum(s.total for s in selections)
    else:
        cache, slack = SharedCache(prefill, selections, new_tokens), [None] * len(rows)

    position = prefill.seq_len
    if suffix is None:
        logits = prefill.first_logits.expand(len(rows), -1)
    else:
        logits = _step(model, cache, suffix.to(device).expand(len(rows), -1), position)
        position += suffix.numel()
    tokens: list[list[int]] = [[] for _ in rows]
    active = list(range(len(rows)))
    for made in range(1, stop.max_new_tokens + 1):
        if made <= stop.min_new_tokens:
            logits = logits.index_fill(-1, torch.tensor(stop.stop_ids, dtype=torch.long, device=device), -torch.inf)
        last = logits.argmax(-1)
        going = []
        for place, (row, token) in enumerate(zip(active, last.tolist(), strict=True)):
            tokens[row].append(token)
            if token not in stop.stop_ids:
                going.append(place)
        if not going or made == stop.max_new_tokens:
            break
        if len(going) < len(active):
            keep = torch.tensor(going)
            cache.keep_rows(keep)
            last, active = last[keep.to(last.device)], [active[i] for i in going]
        logits = _step(model, cache, last[:, None], position)
        position += 1
    return [
        Decoded(ids, row.selection.total, row.selection.total * prefill.token_bytes, spare)
        for ids, row, spare in zip(tokens, rows, slack, strict=True)
    ]


def _step(model: PreTrainedModel, cache: RaggedCache | SharedCache, ids: torch.Tensor, position: int) -> torch.Tensor:
    """Logits of the next token of each row: ids [rows, t] -> [rows, vocab_size]."""
    positions = torch.arange(position, position + ids.shape[1], device=ids.device)
    logits: torch.Tensor = model(
        input_ids=ids,
        past_key_values=cache,
        position_ids=positions.expand(ids.shape[0], -1),
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits[:, -1]


__all__ = ["Decoded", "EvictOldest", "Grow", "Row", "Stop", "Way", "decode"]
