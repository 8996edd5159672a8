"""Expressions over what was measured: bytes, peaks, time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reports.claims.estimates import Estimate, exact, median_estimate
from reports.claims.evidence import Evidence, Json
from reports.claims.parts import NotComparable, Part
from reports.kv_budget import budget_text
from reports.records import FULL

QUANTIZED = "kivi"  # methods whose names begin so store every token in fewer bits, where they have no budget
GPUS = 4


def kept_share(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """Smallest measured percentage of the full cache's bytes, of methods that evict, or that quantize all tokens."""
    evicted = arguments["tokens"] == "evicted"
    rows = [
        row
        for row in (evidence.metrics or {}).get("memory", [])
        if row.get("kept_share") is not None and row["n"] and _is_of_kind(row, evicted)
    ]
    if not rows:
        kind = "a budget" if evicted else "a quantized cache of all tokens"
        raise NotComparable(f"the run has no measured bytes of {kind} (metrics.json)")
    smallest = min(rows, key=lambda row: (row["kept_share"], row["method"]))
    limit = arguments.get("max_budget_share")
    if limit is not None:
        budgets = [(row["nominal_share"], row) for row in rows if row.get("nominal_share") is not None]
        share, row = min(budgets, key=lambda item: item[0], default=(math.inf, None))
        if row is None or share > limit:
            raise NotComparable(
                "no budget is stated as a share of the prompt"
                if row is None
                else f"the smallest budget, {budget_text(row['kv_budget'])}, is {100 * share:.1f} % of these prompts"
            )
    budget = f"{budget_text(smallest['kv_budget'])} slots" if evicted else "all tokens"
    words = f"{evidence.title(smallest['method'])}, {budget}"
    estimate = exact(100 * smallest["kept_share"], smallest["n"], "samples", "metrics.json, measured bytes")
    return [Part(estimate, words)]


def _is_of_kind(row: Json, evicted: bool) -> bool:
    if evicted:
        return row["kv_budget"] is not None and QUANTIZED not in row["method"]
    return row["kv_budget"] is None and str(row["method"]).startswith(QUANTIZED)


def peak_memory_ratio(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """The device's peak bytes in percent of those of transformers' cache; prompts as long as the claim needs."""
    row = _measured(evidence, arguments)
    base = [
        other
        for other in (evidence.measurements or {})["decode"]
        if other["method"] == FULL and other.get("runtime") == "dynamic_cache" and _setting(other) == _setting(row)
    ]
    peaks = [measurement.get("peak_bytes", {}).get("cuda") for measurement in (row, *base)]
    if len(peaks) < 2 or not all(peaks):
        raise NotComparable("no peak of a GPU's memory was measured (measurements.json)")
    estimate = exact(100 * peaks[0] / peaks[1], 1, "measurement", "measurements.json, peak bytes of the allocator")
    return [Part(estimate, _words(row))]


def latency_ratio(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """Time per token in percent of that of transformers' cache, from interleaved repeats."""
    row = _measured(evidence, arguments)
    ratio = row.get("ratio_to", {}).get("dynamic_cache")
    repeats = _repeats(evidence)
    if not isinstance(ratio, Mapping) or repeats is None:
        raise NotComparable("no time against transformers' cache was measured (measurements.json)")
    percent = {key: 100 * value for key, value in ratio.items()}
    return [Part(median_estimate(percent, repeats, "repeats", "measurements.json, interleaved"), _words(row))]


def game_hours(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """Hours of the head game on four GPUs, at the claim's number of coalitions. One timing has no interval."""
    experiment = evidence.spec.get("experiment")
    game = experiment.get("game") if isinstance(experiment, Mapping) else None
    if not isinstance(game, Mapping):
        raise NotComparable("the run has no game")
    size, sizes = game.get("coalitions_per_size"), len(game.get("slice_sizes") or [])
    if (size, sizes) != (arguments["coalitions_per_size"], arguments["sizes"]):
        raise NotComparable(
            f"the game has {size} coalitions of each of {sizes} sizes, not {arguments['coalitions_per_size']} of "
            f"{arguments['sizes']}"
        )
    seconds = [stage["seconds"] * stage["workers"] for stage in evidence.stages if stage["stage"] == "head game"]
    if not seconds:
        raise NotComparable("the game was not timed (stages.jsonl)")
    hours = sum(seconds) / GPUS / 3600
    estimate = Estimate(hours, lambda confidence: (-math.inf, math.inf), 1, "timing", "stages.jsonl")
    return [Part(estimate, "seconds times workers over four; one timing has no interval")]


def _measured(evidence: Evidence, arguments: Mapping[str, Any]) -> Json:
    rows: list[Json] = [
        row
        for row in (evidence.measurements or {}).get("decode") or []
        if row["method"] == arguments["method"] and row.get("runtime") != "dynamic_cache"
    ]
    if not rows:
        raise NotComparable(f"no time or memory of {arguments['method']} was measured (measurements.json)")
    longest = max(rows, key=lambda row: row.get("prompt_tokens") or 0)
    if (longest.get("prompt_tokens") or 0) < arguments["min_prompt_tokens"]:
        raise NotComparable(f"it was measured on prompts of {longest.get('prompt_tokens')} tokens")
    return longest


def _setting(row: Json) -> tuple[Any, Any]:
    return row.get("batch"), row.get("prompt_tokens")


def _words(row: Json) -> str:
    return (
        f"batch {row.get('batch')}, prompts of {row.get('prompt_tokens')} tokens, {budget_text(row['kv_budget'])} slots"
    )


def _repeats(evidence: Evidence) -> int | None:
    experiment = evidence.spec.get("experiment")
    measure = experiment.get("measure") if isinstance(experiment, Mapping) else None
    repeats = measure.get("repeats") if isinstance(measure, Mapping) else None
    return repeats if isinstance(repeats, int) and repeats > 0 else None
