"""Decode and prefill latency and memory of each method, against two full caches.

Two baselines, because most of the gain over transformers' DynamicCache is not compression: DynamicCache itself (it
concatenates every step) and our own runtime with the full budget. Fixed number of new tokens, no early stop, last-token
logits in every arm; arms are interleaved and ratios are computed pair by pair. Token ids are random, since speed does
not depend on the text. What cannot be measured is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from cokv import probes
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compat import cache_argument
from cokv.cache.policies.growth import Grow
from cokv.cache.prefill import Prefill, check_prompt, prefill
from cokv.decode.batches import Row
from cokv.game.identity import digest
from cokv.methods.method import NORMALIZED, prefill_requirements
from cokv.methods.registry import get_method
from cokv.model.loading import LoadedModel
from cokv.types import HeadScores, KVBudget, Selection
from suite.profiles.run_profiles import NoProfile, Profiles, profile_content
from suite.run.answers import Request, compress_prompt
from suite.run.measured_arms import DYNAMIC, FULL_CACHE_NEEDS, RAGGED, MeasuredArm, PrefillNeeds, table_row
from suite.run.progress import progress
from suite.spec import Experiment, MeasureSpec


def measured_settings(experiment: Experiment, scores: HeadScores | None, profiles: Profiles) -> str:
    """A digest of what is measured: the section, and the methods with the numbers of their profiles."""
    assert experiment.measure is not None
    methods = [get_method(m.name, m.preset, **m.params) for m in experiment.methods]
    contents = [[method.spec(), profile_content(method, scores, profiles)] for method in methods]
    return digest({"measure": experiment.measure.model_dump(mode="json"), "methods": contents})


@torch.no_grad()
def measure_decode(
    experiment: Experiment, loaded: LoadedModel, scores: HeadScores | None, profiles: Profiles | None = None
) -> dict[str, Any]:
    """The content of measurements.json. scores: Shapley values; profiles: those per model."""
    spec = experiment.measure
    assert spec is not None
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, loaded.model.config.vocab_size, (spec.prompt_tokens,), generator=generator)
    check_prompt(ids, loaded.shape.context_length, spec.new_tokens)
    left_out: list[dict[str, str]] = []
    requests = _requests(experiment, scores, profiles or Profiles(), left_out)
    read, arms = _arms(loaded, ids, requests, spec, left_out)
    prefill_seconds = _take_turns(loaded, read, arms, spec)
    seconds = {arm.key: arm.decode_seconds for arm in arms}
    sizes = (spec.prompt_tokens, spec.new_tokens, spec.batch)
    table = [table_row(arm, seconds, prefill_seconds[arm.needs], *sizes) for arm in arms]
    return {"machine": probes.machine(), "versions": probes.versions(), "decode": table, "left_out": left_out}


def _requests(
    experiment: Experiment, scores: HeadScores | None, profiles: Profiles, left_out: list[dict[str, str]]
) -> list[Request]:
    """Every method of the experiment that has what it needs; of the others, why not."""
    assert experiment.measure is not None
    budget = KVBudget.parse(experiment.measure.kv_budget)
    requests = []
    for method in (get_method(m.name, m.preset, **m.params) for m in experiment.methods):
        try:
            requests.append(Request(method, budget if method.takes_budget else None, profiles.of(method, scores)))
        except NoProfile as error:
            left_out.append({"method": method.name, "preset": method.variant, "why": str(error)})
    return requests


def _arms(
    loaded: LoadedModel,
    ids: torch.Tensor,
    requests: Sequence[Request],
    spec: MeasureSpec,
    left_out: list[dict[str, str]],
) -> tuple[Prefill, list[MeasuredArm]]:
    """The prompt, read once, and the arms: both full caches, then the methods that can meet the budget."""
    read, compressed = compress_prompt(loaded, ids, requests)
    full = Row(Selection.full(loaded.shape.num_layers, loaded.shape.num_kv_heads, read.seq_len), Grow())
    arms = [
        MeasuredArm("full", NORMALIZED, DYNAMIC, lambda: _dynamic(loaded, read, spec.batch)),
        MeasuredArm("full", NORMALIZED, RAGGED, partial(_filled, read, full, spec.batch), lambda: _filled(read, full)),
    ]
    for result in compressed:
        method = result.request.method
        if method.name == "full":
            continue  # both baselines are arms already
        if result.row is None:
            left_out.append({"method": method.name, "preset": method.variant, "why": result.infeasible})
            continue
        window, observers = prefill_requirements([method])
        budget = result.request.kv_budget
        arms.append(
            MeasuredArm(
                *(method.name, method.variant, RAGGED),
                build=partial(_filled, read, result.row, spec.batch),
                compress=partial(_compress, read, result.request),
                needs=(window, tuple(observers)),
                kv_budget=None if budget is None else budget.nominal,
                kv_slots=None if budget is None else budget.of(spec.prompt_tokens),
            )
        )
    return read, arms


def _take_turns(
    loaded: LoadedModel, read: Prefill, arms: Sequence[MeasuredArm], spec: MeasureSpec
) -> dict[PrefillNeeds, list[float]]:
    """Fills the arms. Returns the seconds of a prefill for each kind of need, turn by turn."""
    device, first = str(loaded.device), int(read.first_logits.argmax())
    prefills = {
        need: partial(prefill, loaded.model, read.input_ids, *need, loaded.tokenizer)
        for need in dict.fromkeys((FULL_CACHE_NEEDS, *(arm.needs for arm in arms)))
    }
    prefill_seconds: dict[PrefillNeeds, list[float]] = {need: [] for need in prefills}
    with progress("latency and memory", (spec.repeats + 1) * (len(arms) + len(prefills))) as report:
        for turn in range(spec.repeats + 1):  # each has every kind of step, so that the time left can be told
            for arm in arms:
                compressing = _seconds(arm.compress, device) if arm.compress else 0.0
                cache = arm.build()
                with probes.measure(device) as probe:
                    marks = _generate(loaded, cache, first, read.seq_len, spec.batch, spec.new_tokens)
                if turn == 0:  # warm-up; bytes do not vary
                    arm.cache_bytes = _bytes(cache)
                else:
                    arm.took(probe.result, marks.seconds(), compressing)
                report.advance()
            for need, read_prompt in prefills.items():
                seconds = _seconds(read_prompt, device)
                if turn > 0:
                    prefill_seconds[need].append(seconds)
                report.advance()
    return prefill_seconds


def _seconds(work: Callable[[], object], device: str) -> float:
    probes.synchronize(device)
    start = time.perf_counter()
    work()
    probes.synchronize(device)
    return time.perf_counter() - start


def _compress(read: Prefill, request: Request) -> RaggedCache:
    """Of one row, from a prompt that has been read."""
    selection = request.method.select(read, request.kv_budget, request.profile)
    shape = read.shape
    policy = request.method.bound_policy(
        request.kv_budget, read.seq_len, shape.num_layers, shape.num_kv_heads, request.profile
    )
    return _filled(read, Row(selection, policy))


def _filled(read: Prefill, row: Row, batch: int = 1) -> RaggedCache:
    assert isinstance(row.selection, Selection)
    return RaggedCache.of(read, [row.selection] * batch, [row.policy] * batch)


def _generate(loaded: LoadedModel, cache: Any, token: int, position: int, batch: int, count: int) -> probes.Marks:
    """`count` greedy steps without stopping. A mark before the first, and after each."""
    last = torch.full((batch, 1), token, device=loaded.device)
    marks = probes.Marks(loaded.device)
    with ragged_attention(loaded.model):
        marks.mark()
        for step in range(count):
            positions = torch.full((batch, 1), position + step, device=loaded.device)
            logits = loaded.model(
                input_ids=last, **cache_argument(cache), position_ids=positions, use_cache=True, logits_to_keep=1
            ).logits
            last = logits[:, -1].argmax(-1, keepdim=True)
            marks.mark()
    return marks


def _dynamic(loaded: LoadedModel, read: Prefill, batch: int) -> DynamicCache:
    """transformers' DynamicCache, filled with the same prompt."""
    cache = DynamicCache(config=loaded.model.config)
    ids = read.input_ids.to(loaded.device).expand(batch, -1)
    loaded.model(input_ids=ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)
    return cache


def _bytes(cache: Any) -> int:
    """Bytes of K and V storage, slack included; shared storage counts once."""
    if isinstance(cache, RaggedCache):
        return cache.storage_bytes
    return probes.storage_bytes(t for layer in cache.layers for t in (layer.keys, layer.values))
