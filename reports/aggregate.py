"""Records -> metrics: means, intervals, corrected p-values of paired differences and measured bytes. One JSON-able
dictionary.

A sample is a question: one asked under several seeds counts once (reports/questions.py). An average over tasks gives
every task the same weight. Intervals are those of reports/intervals.py, and depend on the records of their own task and
method alone: not on the order of records, nor on what else the run holds. p_holm does: it is corrected for every
difference of its table (reports/significance.py).

Does not know: anything outside the records. The interval speaks of the samples drawn, not of other models or training
seeds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reports.intervals import CONFIDENCE, METHOD, Floats, Interval, average_interval, difference_interval
from reports.kv_budget import Budget, budget_order, mean_slots, slots_of
from reports.permutation import sign_flip_p
from reports.questions import by_question, question_gaps, question_scores, seeds_per_question
from reports.records import BYTE_FIELDS, FULL, Record, Variant, digest, sorted_records, variant_of
from reports.significance import CORRECTION, families, mark
from reports.variants import stated

SCHEMA = 2
DECIMALS = 4

Row = dict[str, Any]
_Line = tuple[str, Budget, Variant]  # benchmark, budget, variant


def aggregate(records: Iterable[Record], baseline: str = "snapkv") -> Row:
    """What metrics.json holds. The same records in any order give the same dictionary, in the same order.

    A cell without one feasible question has no "mean" key and says why under "infeasible"; an average with such a cell
    has no "mean" and names the task under "missing". With one question there is a mean and no interval.
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
        for (budget, variant), members in by_row.items():
            identity = {"benchmark": benchmark, "task": task, **_row_fields(budget, variant)}
            questions = by_question(members)
            scores = question_scores(questions)
            cell = {**identity, "n": len(questions), "feasible": len(scores), **seeds_per_question(questions)}
            cell |= _bytes(members)
            for why in ("infeasible", "unsupported"):
                reasons = Counter(reason for _, reason in _reasons(members, why))
                if reasons:
                    cell[why] = dict(sorted(reasons.items()))
            cell |= _facts(members)
            cells.append(cell | _mean_over_tasks([scores]))
            average = averages.setdefault((benchmark, budget, variant), _Average())
            average.add(task, scores, cell.get("kv_slots"))
            average.unsupported |= "unsupported" in cell

            base = _baseline_of(variant, budget, by_row, baseline)
            if variant.method == FULL or base == variant or baseline not in {v.method for _, v in by_row}:
                continue
            gaps = question_gaps(members, by_row.get((budget, base), []))
            differences.append({**identity, "n": len(gaps), **_difference([gaps])})
            all_tasks.setdefault((benchmark, budget, variant), _Average()).add(task, gaps)

    differences_all_tasks = [
        {"benchmark": b, **_row_fields(budget, v), **average.result(tasks[b], _difference)}
        for (b, budget, v), average in sorted(all_tasks.items(), key=_line_order)
    ]
    mark(differences_all_tasks)
    mark(differences)
    return {
        "schema": SCHEMA,
        "records": len(ordered),
        "records_digest": digest(ordered),
        "baseline": baseline,
        "confidence": CONFIDENCE,
        "interval": METHOD,
        "correction": CORRECTION,
        "families": families({"differences_all_tasks": differences_all_tasks, "differences": differences}),
        "cells": cells,
        "averages": [
            {"benchmark": b, **_row_fields(budget, v), **average.result(tasks[b], _mean_over_tasks)}
            for (b, budget, v), average in sorted(averages.items(), key=_line_order)
        ],
        "memory": _memory(ordered),
        "differences": differences,
        "differences_all_tasks": differences_all_tasks,
    }


@dataclass
class _Average:
    """The values of every task behind one average."""

    done: dict[str, Floats] = field(default_factory=dict)
    slots: list[float] = field(default_factory=list)
    unsupported: bool = False  # by the model, so that no question of any task has a score

    def add(self, task: str, values: Floats, slots: float | None = None) -> None:
        """`values` [n] of one task, and the mean slots of a budget that is a share."""
        self.slots += [] if slots is None else [slots]
        if len(values) > 0:
            self.done[task] = values

    def result(self, tasks: Sequence[str], estimate: Callable[[list[Floats]], Row]) -> Row:
        out: Row = {"tasks": len(self.done), "n": sum(map(len, self.done.values()))}
        if self.slots:
            out["kv_slots"] = _round(sum(self.slots) / len(self.slots))
        missing = [task for task in tasks if task not in self.done]
        if missing:
            return out | {"missing": missing} | ({"why": "unsupported"} if self.unsupported else {})
        return out | estimate(list(self.done.values()))


def _row_fields(budget: Budget, variant: Variant) -> Row:
    return {**variant.fields(), "kv_budget": budget}


def _line_order(item: tuple[_Line, Any]) -> tuple[Any, ...]:
    (benchmark, budget, variant), _ = item
    return benchmark, budget_order(budget), variant


def _round(value: Any) -> float:
    return round(float(value), DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0


def _mean_over_tasks(groups: list[Floats], interval: Callable[[list[Floats]], Interval] = average_interval) -> Row:
    """Mean over tasks of their means, and its interval where every task has two questions; nothing without a score."""
    if any(len(values) == 0 for values in groups):
        return {}
    mean = {"mean": _round(sum(float(values.mean()) for values in groups) / len(groups))}
    if any(len(values) < 2 for values in groups):
        return mean
    low, high = interval(groups)
    return mean | {"low": _round(low), "high": _round(high)}


def _difference(groups: list[Floats]) -> Row:
    """The same of paired gaps, and whether they are more than chance."""
    row = _mean_over_tasks(groups, difference_interval)
    if not row:
        return {}
    differing = sum(int(np.count_nonzero(gaps)) for gaps in groups)
    return row | {"differing": differing, "p": sign_flip_p(groups)}


def _baseline_of(variant: Variant, budget: Budget, by_row: Mapping[tuple[Budget, Variant], Any], name: str) -> Variant:
    """The baseline under the same protocol: its normalized preset, or the only one that was run."""
    normalized = replace(variant, method=name, preset="normalized")
    presets = [v for b, v in by_row if b == budget and replace(v, preset="normalized") == normalized]
    return presets[0] if len(presets) == 1 else normalized


def _reasons(members: Sequence[Record], why: str) -> list[tuple[str, str]]:
    """Every question without a score, with each reason that it has under `why`."""
    stated = ((r["sample_id"], r[why]) for r in members if r["score"] is None and r.get(why))
    return list(dict.fromkeys(stated))


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
        {"benchmark": b, **_row_fields(budget, v), "n": _questions(members), **_bytes(members), **_facts(members)}
        for (b, budget, v), members in sorted(rows.items(), key=_line_order)
    ]


def _questions(members: Sequence[Record]) -> int:
    return len({(record["task"], record["sample_id"]) for record in members})
