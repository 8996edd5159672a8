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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reports.intervals import CONFIDENCE, RESAMPLES, Floats, Resamples, interval
from reports.kv_budget import Budget, budget_order, mean_slots, slots_of
from reports.records import BYTE_FIELDS, FULL, Record, Variant, digest, sample_key, sorted_records, variant_of
from reports.variants import stated

SCHEMA = 1
DECIMALS = 4
# Two-sided sign test: with fewer differing pairs p < 0.05 is out of reach (2 * 0.5**5 = 0.0625), whatever the interval.
MIN_DIFFERING = 6

Row = dict[str, Any]
_Line = tuple[str, Budget, Variant]  # benchmark, budget, variant


def aggregate(records: Iterable[Record], baseline: str = "snapkv", seed: int = 0) -> Row:
    """What metrics.json holds. The same records in any order give the same dictionary, in the same order.

    A cell without one feasible sample has no "mean" key and says why under "infeasible"; an average with such a cell
    has no "mean" and names the task under "missing". With one sample there is a mean and no interval.
    """
    ordered = sorted_records(records)
    groups: dict[tuple[str, str], dict[tuple[Budget, Variant], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in ordered:
        groups[record["benchmark"], record["task"]][record["kv_budget"], variant_of(record)].append(record)

    cells: list[Row] = []
    differences: list[Row] = []
    averages: dict[_Line, _Average] = {}
    all_tasks: dict[_Line, _Average] = {}
    tasks: dict[str, list[str]] = defaultdict(list)
    for (benchmark, task), by_row in groups.items():
        tasks[benchmark].append(task)
        resample = _Resampler(seed, f"{benchmark}/{task}")
        for (budget, variant), members in by_row.items():
            identity = {"benchmark": benchmark, "task": task, **_row_fields(budget, variant)}
            scores = np.array([r["score"] for r in members if r["score"] is not None], dtype=np.float64)
            cell = {**identity, "n": len(members), "feasible": len(scores), **_bytes(members)}
            for why in ("infeasible", "unsupported"):
                reasons = Counter(r[why] for r in members if r["score"] is None and r.get(why))
                if reasons:
                    cell[why] = dict(sorted(reasons.items()))
            cell |= _facts(members)
            means = resample.means(scores)
            cells.append(cell | _estimate(scores, means))
            average = averages.setdefault((benchmark, budget, variant), _Average())
            average.add(task, scores, means, cell.get("kv_slots"))
            average.unsupported |= "unsupported" in cell

            base = _baseline_of(variant, budget, by_row, baseline)
            if variant.method == FULL or base == variant or baseline not in {v.method for _, v in by_row}:
                continue
            gaps = _paired(members, by_row.get((budget, base), []))
            means = resample.means(gaps)
            differences.append({**identity, "n": len(gaps), **_difference(gaps, means)})
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
            for (b, budget, v), average in sorted(averages.items(), key=_line_order)
        ],
        "memory": _memory(ordered),
        "differences": differences,
        "differences_all_tasks": [
            {"benchmark": b, **_row_fields(budget, v), **average.result(tasks[b], verdict=True)}
            for (b, budget, v), average in sorted(all_tasks.items(), key=_line_order)
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
    slots: list[float] = field(default_factory=list)
    unsupported: bool = False  # by the model, so that no sample of any task has a score

    def add(self, task: str, values: Floats, means: Floats, slots: float | None = None) -> None:
        """`values` [n] of one task, their resampled means, and the mean slots of a budget that is a share."""
        self.slots += [] if slots is None else [slots]
        if len(values) > 0:
            self.done[task] = (float(values.mean()), len(values))
            self.resampled.append(means)
            self.differing += int(np.count_nonzero(values))

    def result(self, tasks: Sequence[str], verdict: bool = False) -> Row:
        out: Row = {"tasks": len(self.done), "n": sum(n for _, n in self.done.values())}
        if self.slots:
            out["kv_slots"] = _round(sum(self.slots) / len(self.slots))
        missing = [task for task in tasks if task not in self.done]
        if missing:
            return out | {"missing": missing} | ({"why": "unsupported"} if self.unsupported else {})
        has_interval = all(len(means) > 0 for means in self.resampled)
        resampled = np.mean(self.resampled, axis=0) if has_interval else np.empty(0)
        estimate = _estimate(np.array([mean for mean, _ in self.done.values()]), resampled)
        if verdict:
            estimate |= {"differing": self.differing, "verdict": _verdict(estimate, self.differing)}
        return out | estimate


def _row_fields(budget: Budget, variant: Variant) -> Row:
    return {**variant.fields(), "kv_budget": budget}


def _line_order(item: tuple[_Line, Any]) -> tuple[Any, ...]:
    (benchmark, budget, variant), _ = item
    return benchmark, budget_order(budget), variant


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


def _baseline_of(variant: Variant, budget: Budget, by_row: Mapping[tuple[Budget, Variant], Any], name: str) -> Variant:
    """The baseline under the same protocol: its normalized preset, or the only one that was run."""
    normalized = replace(variant, method=name, preset="normalized")
    presets = [v for b, v in by_row if b == budget and replace(v, preset="normalized") == normalized]
    return presets[0] if len(presets) == 1 else normalized


def _paired(members: Sequence[Record], base: Sequence[Record]) -> Floats:
    """score - baseline score, on the samples where both are feasible."""
    base_scores = {sample_key(r): r["score"] for r in base if r["score"] is not None}
    feasible = [r for r in members if r["score"] is not None and sample_key(r) in base_scores]
    gaps = [r["score"] - base_scores[sample_key(r)] for r in feasible]
    return np.array(gaps, dtype=np.float64)


def _difference(gaps: Floats, resampled: Floats) -> Row:
    estimate = _estimate(gaps, resampled)
    if not estimate:
        return {}
    differing = int(np.count_nonzero(gaps))
    return estimate | {"differing": differing, "verdict": _verdict(estimate, differing)}


def _verdict(estimate: Row, differing: int) -> str:
    """'better' or 'worse' only where the interval excludes 0 and enough pairs differ for a significant result."""
    if differing >= MIN_DIFFERING and "low" in estimate:
        if estimate["low"] > 0:
            return "better"
        if estimate["high"] < 0:
            return "worse"
    return "no difference shown"


def _bytes(members: Sequence[Record]) -> Row:
    """Mean tokens and bytes over the feasible samples that state them, and the kept share of the full cache.

    Of a budget that is a share of the prompt, also the mean slots per head that it comes to.
    """
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
    slots = mean_slots(r for r in members if isinstance(r["kv_budget"], str))
    if slots is not None:
        out["kv_slots"] = _round(slots)
    lengths = [(n, r["prompt_tokens"]) for r in feasible if (n := slots_of(r)) is not None and r.get("prompt_tokens")]
    if lengths:
        out["nominal_share"] = _round(sum(map(min, lengths)) / sum(tokens for _, tokens in lengths))
    return out


def _facts(members: Sequence[Record]) -> Row:
    """Means of what the budget decided in the method's own terms; absent where it has none."""
    facts = {name: _round(value) for name, value in sorted(stated(members).items())}
    return {"facts": facts} if facts else {}


def _memory(ordered: Sequence[Record]) -> list[Row]:
    """Nominal and measured size per benchmark, method and budget, over all its tasks."""
    rows: dict[_Line, list[Record]] = defaultdict(list)
    for record in ordered:
        rows[record["benchmark"], record["kv_budget"], variant_of(record)].append(record)
    return [
        {"benchmark": b, **_row_fields(budget, v), "n": len(members), **_bytes(members), **_facts(members)}
        for (b, budget, v), members in sorted(rows.items(), key=_line_order)
    ]
