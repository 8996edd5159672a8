"""What a table of scores or differences shows, in full precision: one plain object per cell, for CSV and Parquet.

mean: score in percent; low, high: its interval; difference: paired, minus the baseline, in points; p_holm: corrected
over the table. What does not exist is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.categories import category
from reports.families import family
from reports.kv_budget import Budget, budget_order, slots_of
from reports.labels import Labels
from reports.records import Variant, variant_of

Row = Mapping[str, Any]
AVERAGE = "average"


def cell_numbers(metrics: Row, labels: Labels, benchmark: str) -> list[dict[str, Any]]:
    """Of every task, method and budget of a benchmark."""
    rows = [row for row in metrics["cells"] if row["benchmark"] == benchmark]
    pairs = {_cell(row): row for row in metrics["differences"]}
    return [_numbers(row, labels) | _difference(pairs.get(_cell(row), {})) for row in _ordered(rows, labels)]


def average_numbers(metrics: Row, labels: Labels, benchmark: str | None = None) -> list[dict[str, Any]]:
    """Of every method and budget, the mean over a benchmark's tasks; of all benchmarks where none is named."""
    rows = [row for row in metrics["averages"] if benchmark in (None, row["benchmark"])]
    pairs = {_cell(row): row for row in metrics["differences_all_tasks"]}
    return [_numbers(row, labels) | _difference(pairs.get(_cell(row), {})) for row in _ordered(rows, labels)]


def difference_numbers(rows: Sequence[Row], labels: Labels) -> Iterator[dict[str, Any]]:
    """Of every paired difference."""
    for row in _ordered(rows, labels):
        numbers = _numbers(row, labels)
        moved = {name: numbers.pop(name) for name in ("mean", "low", "high", "scored")}
        del moved["scored"]
        yield numbers | {
            "difference": moved["mean"],
            "low": moved["low"],
            "high": moved["high"],
            "differing": row.get("differing"),
            "p": row.get("p"),
            "p_holm": row.get("p_holm"),
            "significant": row.get("significant"),
            "verdict": row.get("verdict"),
        }


def _ordered(rows: Sequence[Row], labels: Labels) -> list[Row]:
    def key(row: Row) -> tuple[Any, ...]:
        return row["benchmark"], row.get("task", ""), budget_order(row["kv_budget"]), labels.order(variant_of(row))

    return sorted(rows, key=key)


def _numbers(row: Row, labels: Labels) -> dict[str, Any]:
    variant = variant_of(row)
    task = row.get("task")
    reasons = [*row.get("infeasible", {}), *row.get("unsupported", {})]
    return {
        "benchmark": row["benchmark"],
        "category": category(row["benchmark"], task) if task else None,
        "task": task or AVERAGE,
        "family": family(variant.method),
        "title": labels.name(variant),
        **variant.fields(),
        "kv_budget": None if row["kv_budget"] is None else str(row["kv_budget"]),
        "kv_slots": _float(slots_of(row)),
        "mean": _float(row.get("mean")),
        "low": _float(row.get("low")),
        "high": _float(row.get("high")),
        "n": row["n"],
        "scored": row.get("feasible"),
        "reason": "; ".join(reasons) or None,
    }


def _difference(pair: Row) -> dict[str, Any]:
    """Of a cell to the baseline."""
    return {
        "difference": _float(pair.get("mean")),
        "difference_low": _float(pair.get("low")),
        "difference_high": _float(pair.get("high")),
        "p_holm": _float(pair.get("p_holm")),
        "significant": pair.get("significant"),
    }


def _cell(row: Row) -> tuple[str, str | None, Budget, Variant]:
    return row["benchmark"], row.get("task"), row["kv_budget"], variant_of(row)


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)
