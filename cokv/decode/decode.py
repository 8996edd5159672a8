"""Greedy decoding of many rows over one Prefill, in batches. Finished rows leave their batch.

The first answer token comes from the uncompressed prefill (`first_token="prefill"`), as in the released codes, or from
the last prompt token, run again on the compressed cache (`"compressed"`). A suffix (the question, in question-agnostic
compression) is always read on the compressed cache. Knows nothing of methods, tasks or text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from cokv.cache.attention import choose
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.attention.backend import Attend
from cokv.cache.prefill import Prefill, check_prompt
from cokv.decode.batches import AnyWay, Row, batches
from cokv.decode.session import DecodeSession, FirstToken, Nodes, start_session
from cokv.types import CokvError


@dataclass(frozen=True)
class Stop:
    """When a row ends: at any of `stop_ids`, which it keeps, or at `max_new_tokens`.

    As in transformers, no stop id is among the first `min_new_tokens`: the next best token is generated instead.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise CokvError(
                f"min_new_tokens is {self.min_new_tokens} and max_new_tokens {self.max_new_tokens}; "
                "expected 0 <= min_new_tokens <= max_new_tokens, and max_new_tokens of at least 1"
            )


@dataclass(frozen=True)
class Decoded:
    """`tokens`: generated ids, a stop token included. Bytes are summed over all layers with a budget.

    Before the first step: `kept_tokens`, KV slots in use; `kept_bytes`, their bytes, including policy state, digests,
    scales and zero points. `slack_bytes`: allocated but unused when the row ended; its storage may have grown by then.
    """

    tokens: list[int]
    kept_tokens: int
    kept_bytes: int
    slack_bytes: int | None  # of this row's ragged storage; None where the prompt's storage is shared
    host_bytes: int = 0  # pages in CPU memory, not counted in kept_bytes


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Iterable[Row],
    stop: Stop,
    way: AnyWay = "ragged",
    suffix: torch.Tensor | None = None,
    max_bytes: int = 1 << 30,
    attend: Attend = choose.attend,
    first_token: FirstToken = "prefill",
    graph: bool = False,
) -> list[Decoded]:
    """Greedy answers, one per row, in order.

    `way`: "ragged" (a compact cache per row), "shared" (the prompt's cache under a mask per row), "trie" (shared, with
    work that rows have in common done once) or "auto" (the lowest estimated cost). The first two consume rows batch by
    batch, so a generator of many rows needs little memory; the others consume all rows first. `suffix`: int64 [t] read
    after the prompt on the compressed cache. `max_bytes` bounds the memory of a batch's rows: K and V with slack and
    new tokens, or the shared ways' masks, new tokens and attention weights; a single row may exceed it. `graph`: on
    CUDA, a step is recorded once and replayed, see graphed.py; refused for what cannot be.
    """
    if suffix is not None and (suffix.ndim != 1 or suffix.numel() == 0):
        raise CokvError(f"suffix ids have shape {list(suffix.shape)}, expected one non-empty row [t], or None")
    suffix_len = 0 if suffix is None else suffix.numel()
    new_tokens = stop.max_new_tokens + suffix_len
    check_prompt(prefill.input_ids, prefill.shape.context_length, new_tokens)
    answers: dict[int, Decoded] = {}
    with ragged_attention(model):
        for batch_way, batch in batches(model, prefill, rows, way, new_tokens, max(suffix_len, 1), max_bytes):
            with start_session(
                model, prefill, batch.rows, batch_way, stop.max_new_tokens, suffix, first_token, attend, graph
            ) as (session, logits, nodes):
                tokens = _greedy(session, logits, nodes, len(batch.rows), stop)
                session.record_slack()
            for index, usage, ids in zip(batch.places, session.held, tokens, strict=True):
                answers[int(index)] = Decoded(ids, usage.slots, usage.bytes, usage.slack_bytes, usage.host_bytes)
    return [answers[index] for index in range(len(answers))]


def _greedy(session: DecodeSession, logits: torch.Tensor, nodes: Nodes, rows: int, stop: Stop) -> list[list[int]]:
    """The rows' tokens, greedily; logits [nodes, vocab_size] predict the first."""
    tokens: list[list[int]] = [[] for _ in range(rows)]
    active = list(range(rows))
    for number in range(1, stop.max_new_tokens + 1):
        best = without_stops(logits, stop, number).argmax(-1).cpu()
        last = best if nodes is None else best[nodes]
        unfinished = []  # indices into `active`
        for i, (row, token) in enumerate(zip(active, last.tolist(), strict=True)):
            tokens[row].append(token)
            if token not in stop.stop_ids:
                unfinished.append(i)
        if not unfinished or number == stop.max_new_tokens:
            break
        if len(unfinished) < len(active):
            session.drop_finished(unfinished)
            last, active = last[unfinished], [active[i] for i in unfinished]
        logits, nodes = session.read(last[:, None])
        logits = logits[:, -1]
    return tokens


def without_stops(logits: torch.Tensor, stop: Stop, number: int) -> torch.Tensor:
    """Logits [nodes, vocab_size] for the answer's token `number` (from 1), stop ids at -inf up to min_new_tokens."""
    if number > stop.min_new_tokens:
        return logits
    return logits.index_fill(-1, torch.tensor(stop.stop_ids, dtype=torch.long, device=logits.device), -torch.inf)
