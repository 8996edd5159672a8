"""Decode and prefill latency and memory of each method, against two full caches.

Two baselines, because most of the gain over transformers' DynamicCache is not compression: DynamicCache itself (it
concatenates every step) and our own runtime with the full budget. Fixed number of new tokens, no early stop, last-token
logits in every arm; arms are interleaved and ratios are computed pair by pair. Token ids are random, since speed does
not depend on the text. What cannot be measured is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from cokv import probes
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compat import cache_argument
from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import Grow
from cokv.cache.prefill import check_prompt, prefill
from cokv.game.identity import digest
from cokv.methods.method import NORMALIZED, prefill_requirements
from cokv.methods.registry import get_method
from cokv.model.loading import LoadedModel
from cokv.types import HeadScores, KVBudget, Selection
from suite.profiles.run_profiles import NoProfile, Profiles, profile_content
from suite.run.answers import Request, compress_prompt
from suite.run.progress import progress
from suite.spec import Experiment

DYNAMIC, RAGGED = "dynamic_cache", "ragged"
Arm = tuple[str, str, str]  # method, variant, runtime
PrefillNeeds = tuple[int, tuple[Any, ...]]  # window of queries, observers
FULL_CACHE_NEEDS: PrefillNeeds = (1, ())


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
    profiles = profiles or Profiles()
    spec = experiment.measure
    assert spec is not None
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, loaded.model.config.vocab_size, (spec.prompt_tokens,), generator=generator)
    check_prompt(ids, loaded.shape.context_length, spec.new_tokens)
    device = str(loaded.device)
    methods = [get_method(m.name, m.preset, **m.params) for m in experiment.methods]
    budget = KVBudget.parse(spec.kv_budget)
    left_out: list[dict[str, str]] = []
    requests = []
    for method in methods:
        try:
            requests.append(Request(method, budget if method.takes_budget else None, profiles.of(method, scores)))
        except NoProfile as error:
            left_out.append({"method": method.name, "preset": method.variant, "why": str(error)})
    read, compressed = compress_prompt(loaded, ids, requests)
    full = Selection.full(loaded.shape.num_layers, loaded.shape.num_kv_heads, read.seq_len)

    arms: dict[Arm, tuple[Selection, Policy]] = {("full", NORMALIZED, RAGGED): (full, Grow())}
    budgets = {(m.name, m.variant): budget.nominal if m.takes_budget else None for m in methods}
    needs: dict[Arm, PrefillNeeds] = {}  # of a prefill for this method alone
    for result in compressed:
        method = result.request.method
        if method.name == "full":
            continue  # both baselines are arms already
        if result.row is None:
            left_out.append({"method": method.name, "preset": method.variant, "why": result.infeasible})
            continue
        assert isinstance(result.row.selection, Selection)
        arms[method.name, method.variant, RAGGED] = result.row.selection, result.row.policy
        window, observers = prefill_requirements([method])
        needs[method.name, method.variant, RAGGED] = window, tuple(observers)

    first = int(read.first_logits.argmax())
    caches: dict[Arm, Callable[[], Any]] = {("full", NORMALIZED, DYNAMIC): lambda: _dynamic(loaded, read, spec.batch)}
    for key, (selection, policy) in arms.items():
        caches[key] = partial(RaggedCache.of, read, [selection] * spec.batch, [policy] * spec.batch)
    prefills = {
        need: partial(prefill, loaded.model, ids, *need, loaded.tokenizer)
        for need in dict.fromkeys((FULL_CACHE_NEEDS, *needs.values()))
    }
    seconds: dict[Arm, list[float]] = {key: [] for key in caches}
    prefill_seconds: dict[PrefillNeeds, list[float]] = {need: [] for need in prefills}
    rows: dict[Arm, dict[str, Any]] = {}
    with progress("latency and memory", (spec.repeats + 1) * (len(caches) + len(prefills))) as report:
        for repeat in range(spec.repeats + 1):  # each turn has every kind of step, so that the time left can be told
            for key, build in caches.items():
                cache = build()
                with probes.measure(device) as probe:
                    _generate(loaded, cache, first, read.seq_len, spec.batch, spec.new_tokens)
                if repeat == 0:  # warm-up; bytes do not vary
                    rows[key] = {"cache_bytes": _bytes(cache)}
                else:
                    seconds[key].append(probe.result["seconds"])
                    rows[key].setdefault("peak_bytes", _peaks(probe.result))
                report.advance()
            for need, read_prompt in prefills.items():
                with probes.measure(device) as probe:
                    read_prompt()
                if repeat > 0:
                    prefill_seconds[need].append(probe.result["seconds"])
                report.advance()
    seconds_by_name = {"/".join(key): times for key, times in seconds.items()}
    table = []
    for key, row in rows.items():
        times = sorted(seconds[key])
        table.append(
            {
                "method": key[0],
                "preset": key[1],
                "runtime": key[2],
                "kv_budget": budgets.get(key[:2]),
                "kv_slots": None if budgets.get(key[:2]) is None else budget.of(spec.prompt_tokens),
                "batch": spec.batch,
                "prompt_tokens": spec.prompt_tokens,
                "generated_tokens": spec.new_tokens,
                "decode_ms_per_token": 1000 * times[len(times) // 2] / spec.new_tokens,
                "prefill_ms": 1000 * statistics.median(prefill_seconds[needs.get(key, FULL_CACHE_NEEDS)]),
                **row,
                "ratio_to": {
                    DYNAMIC: probes.ratio_summary(seconds_by_name, "/".join(key), f"full/{NORMALIZED}/{DYNAMIC}"),
                    "ragged_full": probes.ratio_summary(seconds_by_name, "/".join(key), f"full/{NORMALIZED}/{RAGGED}"),
                },
            }
        )
    return {"machine": probes.machine(), "versions": probes.versions(), "decode": table, "left_out": left_out}


def _generate(loaded: LoadedModel, cache: Any, token: int, position: int, batch: int, count: int) -> None:
    """`count` greedy steps without stopping."""
    last = torch.full((batch, 1), token, device=loaded.device)
    with ragged_attention(loaded.model):
        for step in range(count):
            positions = torch.full((batch, 1), position + step, device=loaded.device)
            logits = loaded.model(
                input_ids=last, **cache_argument(cache), position_ids=positions, use_cache=True, logits_to_keep=1
            ).logits
            last = logits[:, -1].argmax(-1, keepdim=True)


def _dynamic(loaded: LoadedModel, read: Any, batch: int) -> DynamicCache:
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


def _peaks(result: probes.Result) -> dict[str, int]:
    names = {"rss_peak_bytes": "rss", "cuda_peak_bytes": "cuda"}
    return {short: int(result[name]) for name, short in names.items() if name in result}
