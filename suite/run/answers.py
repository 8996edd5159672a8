"""One prompt through prefill, selection, policy and decoding, for many (method, budget) pairs.

Samples, comparisons, measurements, transfer and lm-eval all use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """A method at a budget (None if it takes none), with the profile it needs."""

    method: Method
    kv_budget: KVBudget | None
    profile: Any = None


@dataclass(frozen=True, eq=False)
class Compressed:
    """What a request keeps of a prompt: its row, or why its method cannot meet the budget."""

    request: Request
    kv_slots: int | None  # the budget on this prompt, in slots per head
    row: Row | None
    infeasible: str = ""
    decoded: Decoded | None = None
    facts: Mapping[str, float] = field(default_factory=dict)  # see Method.select_with_facts


def compress_prompt(
    loaded: LoadedModel, input_ids: torch.Tensor, requests: Sequence[Request]
) -> tuple[Prefill, list[Compressed]]:
    """One prefill of the prompt, int64 [seq_len], and every request's row, or why its budget is infeasible."""
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
        selection, facts = method.select_with_facts(read, budget, request.profile, scores)
    except Infeasible as error:
        return Compressed(request, kv_slots, None, str(error))
    return Compressed(request, kv_slots, Row(selection, policy), facts=facts)


def answer(
    loaded: LoadedModel,
    input_ids: torch.Tensor,
    requests: Sequence[Request],
    stop: Stop,
    suffix: torch.Tensor | None = None,
    first_token: FirstToken = "prefill",
) -> tuple[Prefill, list[Compressed]]:
    """As `compress_prompt`, with the greedy answers of all feasible rows.

    suffix: int64 [t], read after the prompt on the compressed cache; the first token then comes from there.
    """
    read, compressed = compress_prompt(loaded, input_ids, requests)
    rows = [result.row for result in compressed if result.row is not None]
    if suffix is None:
        decoded = iter(decode(loaded.model, read, rows, stop, first_token=first_token))
    else:
        decoded = iter(decode(loaded.model, read, rows, stop, suffix=suffix))
    return read, [result if result.row is None else replace(result, decoded=next(decoded)) for result in compressed]
