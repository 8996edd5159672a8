"""One prompt, read once, and what every method at its budget keeps of it and answers.

The one place where a prompt goes through prefill, selection, policy and decoding: samples, comparisons, measurements,
transfer and lm-eval all come through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Decoded, Stop, decode
from cokv.decode.session import FirstToken
from cokv.methods.method import Method, ScoreCache, prefill_requirements
from cokv.model.loading import LoadedModel
from cokv.types import Infeasible, KVBudget


@dataclass(frozen=True)
class Request:
    """A method at a budget (None where it takes none), with the profile it needs."""

    method: Method
    kv_budget: KVBudget | None
    profile: Any = None


@dataclass(frozen=True, eq=False)
class Compressed:
    """What a request keeps of a prompt: its row, or why its method cannot meet the budget."""

    request: Request
    kv_slots: int | None  # slots per head that the budget means on this prompt
    row: Row | None
    infeasible: str = ""
    decoded: Decoded | None = None


def compress_prompt(
    loaded: LoadedModel, input_ids: torch.Tensor, requests: Sequence[Request]
) -> tuple[Prefill, list[Compressed]]:
    """One prefill of the prompt, int64 [seq_len], and every request's row. Only a budget may make one fail."""
    window, observers = prefill_requirements(request.method for request in requests)
    read = prefill(loaded.model, input_ids, window, observers, loaded.tokenizer)
    scores: ScoreCache = {}
    return read, [_compressed(read, request, scores) for request in requests]


def _compressed(read: Prefill, request: Request, scores: ScoreCache) -> Compressed:
    method, shape, budget = request.method, read.shape, request.kv_budget
    kv_slots = None
    try:
        kv_slots = None if budget is None else budget.of(read.seq_len)
        policy = method.bound_policy(budget, read.seq_len, shape.num_layers, shape.num_kv_heads, request.profile)
        selection = method.select(read, budget, request.profile, scores)
    except Infeasible as error:
        return Compressed(request, kv_slots, None, str(error))
    return Compressed(request, kv_slots, Row(selection, policy))


def answer(
    loaded: LoadedModel,
    input_ids: torch.Tensor,
    requests: Sequence[Request],
    stop: Stop,
    suffix: torch.Tensor | None = None,
    first_token: FirstToken = "prefill",
) -> tuple[Prefill, list[Compressed]]:
    """As `compress_prompt`, with the greedy answers of all feasible rows, decoded as one batch.

    suffix: int64 [t], read after the prompt on the compressed cache, where the first token then comes from.
    """
    read, compressed = compress_prompt(loaded, input_ids, requests)
    rows = [one.row for one in compressed if one.row is not None]
    if suffix is None:
        decoded = iter(decode(loaded.model, read, rows, stop, first_token=first_token))
    else:
        decoded = iter(decode(loaded.model, read, rows, stop, suffix=suffix))
    return read, [
        one if one.row is None else Compressed(one.request, one.kv_slots, one.row, decoded=next(decoded))
        for one in compressed
    ]
