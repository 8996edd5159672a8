"""Records -> metrics: means, bootstrap intervals, paired differences and measured bytes. One JSON-able dictionary.

Intervals are 95% percentile bootstrap over samples (Efron & Tibshirani 1993, ch. 13), resampled inside each task; an
average over tasks gives every task the same weight. All methods of a task share their resamples, and every task draws
from its own generator, so a number depends on the records of its own task alone: not on the order of records, nor on
which other tasks or methods the run holds.

Does not know: anything outside the records. The interval speaks of the samples drawn, not of other models or training
seeds, and where all samples score the same it has no width, which is a lack of evidence and not certainty.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reports.intervals import CONFIDENCE, RESAMPLES, Floats, Resamples, interval
from reports.records import (
    BYTE_FIELDS,
    FULL,
    Record,
    Variant,
    budget_order,
    digest,
    sample_key,
    sorted_records,
    variant_of,
)

SCHEMA = 1
DECIMALS = 4
# Two-sided sign test: with fewer differing pairs p < 0.05 is out of reach (2 * 0.5**5 = 0.0625), whatever the interval.
MIN_DIFFERING = 6

Row = dict[str, Any]


def aggregate(records: Iterable[Record], baseline: str = "snapkv", seed: int = 0) -> Row:
    """What metrics.json holds. The same records in any order give the same dictionary, in the same order.

    A cell without one feasible sample has no "mean" key and says why under "infeasible"; an average with such a cell
    has no "mean" and names the task under "missing". With one sample there is a mean and no interval.
    """
    ordered = sorted_records(records)
    groups: dict[tuple[str, str], dict[tuple[int, Variant], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in ordered:
        key = (budget_order(record["kv_budget"]), variant_of(record))
        groups[record["benchmark"], record["task"]][key].append(record)

    cells: list[Row] = []
    differences: list[Row] = []
    averages: dict[tuple[str, int, Variant], _Average] = {}
    all_tasks: dict[tuple[str, int, Variant], _Average] = {}
    tasks: dict[str, list[str]] = defaultdict(list)
    for (benchmark, task), by_row in groups.items():
        tasks[benchmark].append(task)
        resample = _Resampler(seed, f"{benchmark}/{task}")
        for (budget, variant), members in by_row.items():
            where = {"benchmark": benchmark, "task": task, **_row_fields(budget, variant)}
            scores = np.array([r["score"] for r in members if r["score"] is not None], dtype=np.float64)
            cell = {**where, "n": len(members), "feasible": len(scores), **_bytes(members)}
            reasons = Counter(r["infeasible"] for r in members if r["score"] is None)
            if reasons:
                cell["infeasible"] = dict(sorted(reasons.items()))
            means = resample.means(scores)
            cells.append(cell | _estimate(scores, means))
            averages.setdefault((benchmark, budget, variant), _Average()).add(task, scores, means)

            base = _baseline_of(variant, budget, by_row, baseline)
            if variant.method == FULL or base == variant or baseline not in {v.method for _, v in by_row}:
                continue
            gaps = _paired(members, by_row.get((budget, base), []))
            means = resample.means(gaps)
            differences.append({**where, "n": len(gaps), **_difference(gaps, means)})
            all_tasks.setdefault((benchmark, budget, variant), _Average()).add(task, gaps, means)

    return {
        "schema": SCHEMA,
        "records": len(ordered),
        "records_digest": digest(ordered),
        "baseline": baseline,
        "seed": seed,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "cells": cells,
        "averages": [
            {"benchmark": b, **_row_fields(budget, v), **average.result(tasks[b])}
            for (b, budget, v), average in sorted(averages.items())
        ],
        "memory": _memory(ordered),
        "differences": differences,
        "differences_all_tasks": [
            {"benchmark": b, **_row_fields(budget, v), **average.result(tasks[b], verdict=True)}
            for (b, budget, v), average in sorted(all_tasks.items())
        ],
    }


class _Resampler:
    """Bootstrap means inside one task; the same resamples for every method with the same number of samples."""

    def __init__(self, seed: int, name: str) -> None:
        self._entropy = [seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")]
        self._resamples: dict[int, Resamples] = {}

    def means(self, values: Floats) -> Floats:
        """Means of RESAMPLES resamples of `values` [n]; empty when n < 2, where no interval can be given."""
        n = len(values)
        if n < 2:
            return np.empty(0)
        if n not in self._resamples:
            self._resamples[n] = Resamples.draw_indices(n, self._entropy)
        return self._resamples[n].means(values)


@dataclass
class _Average:
    """Running mean over tasks, of the values and of their resampled means."""

    done: dict[str, tuple[float, int]] = field(default_factory=dict)
    resampled: list[Floats] = field(default_factory=list)
    differing: int = 0

    def add(self, task: str, values: Floats, means: Floats) -> None:
        if len(values) > 0:
            self.done[task] = (float(values.mean()), len(values))
            self.resampled.append(means)
            self.differing += int(np.count_nonzero(values))

    def result(self, tasks: Sequence[str], verdict: bool = False) -> Row:
        out: Row = {"tasks": len(self.done), "n": sum(n for _, n in self.done.values())}
        missing = [task for task in tasks if task not in self.done]
        if missing:
            return out | {"missing": missing}
        has_interval = all(len(means) > 0 for means in self.resampled)
        resampled = np.mean(self.resampled, axis=0) if has_interval else np.empty(0)
        estimate = _estimate(np.array([mean for mean, _ in self.done.values()]), resampled)
        if verdict:
            estimate |= {"differing": self.differing, "verdict": _word(estimate, self.differing)}
        return out | estimate


def _row_fields(budget: int, variant: Variant) -> Row:
    return {**variant.fields(), "kv_budget": None if budget < 0 else budget}


def _round(value: float) -> float:
    return round(float(value), DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0


def _estimate(values: Floats, resampled: Floats) -> Row:
    """Mean of `values`, and the percentile interval of its `resampled` means; what does not exist is absent."""
    if len(values) == 0:
        return {}
    mean = float(values.mean())
    if len(resampled) == 0:
        return {"mean": _round(mean)}
    low, high = interval(resampled).values()
    # min and max only absorb the last bit of floating point: the percentile interval of a mean contains it.
    return {"mean": _round(mean), "low": _round(min(low, mean)), "high": _round(max(high, mean))}


def _baseline_of(variant: Variant, budget: int, by_row: dict[tuple[int, Variant], list[Record]], name: str) -> Variant:
    """The baseline under the same protocol: its normalized preset, or the only one that was run."""
    normalized = replace(variant, method=name, preset="normalized")
    presets = [v for b, v in by_row if b == budget and replace(v, preset="normalized") == normalized]
    return presets[0] if len(presets) == 1 else normalized


def _paired(members: Sequence[Record], base: Sequence[Record]) -> Floats:
    """score - baseline score, on the samples where both are feasible."""
    theirs = {sample_key(r): r["score"] for r in base if r["score"] is not None}
    gaps = [r["score"] - theirs[sample_key(r)] for r in members if r["score"] is not None and sample_key(r) in theirs]
    return np.array(gaps, dtype=np.float64)


def _difference(gaps: Floats, resampled: Floats) -> Row:
    estimate = _estimate(gaps, resampled)
    if not estimate:
        return {}
    differing = int(np.count_nonzero(gaps))
    return estimate | {"differing": differing, "verdict": _word(estimate, differing)}


def _word(estimate: Row, differing: int) -> str:
    """'better' or 'worse' only where the interval excludes 0 and enough pairs differ for any test to say so."""
    if differing >= MIN_DIFFERING and "low" in estimate:
        if estimate["low"] > 0:
            return "better"
        if estimate["high"] < 0:
            return "worse"
    return "no difference shown"


def _bytes(members: Sequence[Record]) -> Row:
    """Mean tokens and bytes over the feasible samples that state them, and the kept share of the full cache."""
    feasible = [r for r in members if r["score"] is not None]
    out: Row = {}
    for name in ("prompt_tokens", *BYTE_FIELDS):
        values = [r[name] for r in feasible if r.get(name) is not None]
        if values:
            out[name] = _round(sum(values) / len(values))
    stated = [r for r in feasible if r.get("full_bytes") and r.get("kept_bytes") is not None]
    if stated:
        full = sum(r["full_bytes"] for r in stated)
        out["kept_share"] = _round(sum(r["kept_bytes"] for r in stated) / full)
        if all(r.get("slack_bytes") is not None for r in stated):
            out["slack_share"] = _round(sum(r["slack_bytes"] for r in stated) / full)
    budgeted = [r for r in feasible if r["kv_budget"] is not None and r.get("prompt_tokens")]
    if budgeted:
        spent = sum(min(r["kv_budget"], r["prompt_tokens"]) for r in budgeted)
        out["nominal_share"] = _round(spent / sum(r["prompt_tokens"] for r in budgeted))
    return out


def _memory(ordered: Sequence[Record]) -> list[Row]:
    """Nominal and measured size per benchmark, method and budget, over all its tasks."""
    rows: dict[tuple[str, int, Variant], list[Record]] = defaultdict(list)
    for record in ordered:
        rows[record["benchmark"], budget_order(record["kv_budget"]), variant_of(record)].append(record)
    return [
        {"benchmark": b, **_row_fields(budget, v), "n": len(rows[b, budget, v]), **_bytes(rows[b, budget, v])}
        for b, budget, v in sorted(rows)
    ]
