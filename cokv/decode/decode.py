"""Rows over one Prefill -> tokens, greedily, all rows in one batch. Rows that have ended leave it.

The first answer token comes from the uncompressed prefill (`first_token="prefill"`), as in the released codes, or from
the last prompt token, run again on the compressed cache (`"compressed"`). A suffix (the question, in question-agnostic
compression) is read on the compressed cache whichever of the two is chosen. Knows nothing of methods, tasks or text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from cokv.cache.attention import buckets
from cokv.cache.attention.interface import ragged_attention
from cokv.cache.prefill import Prefill, check_prompt
from cokv.cache.storage.ragged import Attend
from cokv.decode.batches import AnyWay, Row, batches
from cokv.decode.session import DecodeSession, FirstToken, Nodes, start_session
from cokv.types import CokvError


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
class Decoded:
    """`tokens`: generated ids, a stop token included. Bytes: over all layers with a budget.

    Before the first step: `kept_tokens`, KV slots in use; `kept_bytes`, what these take, with notes, digests, scales
    and zero points. `slack_bytes`: allocated and unused when the row had ended, by when its storage may have grown.
    """

    tokens: list[int]
    kept_tokens: int
    kept_bytes: int
    slack_bytes: int | None  # of this row's ragged storage; None where the prompt's storage is shared
    host_bytes: int = 0  # pages in CPU memory, beside kept_bytes


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Iterable[Row],
    stop: Stop,
    way: AnyWay = "ragged",
    suffix: torch.Tensor | None = None,
    max_bytes: int = 1 << 30,
    attend: Attend = buckets.attend,
    first_token: FirstToken = "prefill",
) -> list[Decoded]:
    """Greedy answers, one per row, in order.

    `way`: "ragged" (each row's own compact cache), "shared" (the prompt's cache under a mask per row), "trie" (shared,
    and what rows have in common is computed once) or "auto" (the cheapest by count). The first two take rows as batches
    need them, so a generator of many costs little memory; the others take all rows first. `suffix`: int64 [t] read
    after the prompt on the compressed cache. `max_bytes` bounds what a batch's rows hold: K and V with slack and new
    tokens, or the shared ways' masks, new tokens and attention weights; a single row may exceed it.
    """
    if suffix is not None and (suffix.ndim != 1 or suffix.numel() == 0):
        raise CokvError(f"suffix ids have shape {list(suffix.shape)}, expected one non-empty row [t], or None")
    read = 0 if suffix is None else suffix.numel()
    check_prompt(prefill.input_ids, prefill.shape.context_length, stop.max_new_tokens + read)
    answers: dict[int, Decoded] = {}
    with ragged_attention(model):
        for chosen, batch in batches(model, prefill, rows, way, stop.max_new_tokens + read, max(read, 1), max_bytes):
            with start_session(
                model, prefill, batch.rows, chosen, stop.max_new_tokens, suffix, first_token, attend
            ) as first:
                tokens = _greedy(*first, len(batch.rows), stop)
                first[0].count_slack()
            for place, row, ids in zip(batch.places, first[0].held, tokens, strict=True):
                answers[int(place)] = Decoded(ids, row.slots, row.bytes, row.slack_bytes, row.host_bytes)
    return [answers[place] for place in range(len(answers))]


def _greedy(reader: DecodeSession, logits: torch.Tensor, nodes: Nodes, rows: int, stop: Stop) -> list[list[int]]:
    """The rows' tokens; logits [nodes, vocab_size] are those of their first."""
    tokens: list[list[int]] = [[] for _ in range(rows)]
    active = list(range(rows))
    for made in range(1, stop.max_new_tokens + 1):
        best = without_stops(logits, stop, made).argmax(-1).cpu()
        last = best if nodes is None else best[nodes]
        going = []
        for place, (row, token) in enumerate(zip(active, last.tolist(), strict=True)):
            tokens[row].append(token)
            if token not in stop.stop_ids:
                going.append(place)
        if not going or made == stop.max_new_tokens:
            break
        if len(going) < len(active):
            reader.drop_finished(going)
            last, active = last[going], [active[place] for place in going]
        logits, nodes = reader.read(last[:, None])
        logits = logits[:, -1]
    return tokens


def without_stops(logits: torch.Tensor, stop: Stop, made: int) -> torch.Tensor:
    """Logits [nodes, vocab_size] of the answer's token number `made`, from 1, with the stop ids ruled out while they
    are.
    """
    if made > stop.min_new_tokens:
        return logits
    return logits.index_fill(-1, torch.tensor(stop.stop_ids, dtype=torch.long, device=logits.device), -torch.inf)
