"""LongBench's official numbers of a run: one line per data set, method and budget, with its buckets or columns; and
the means over version 1's categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.errors import ReportError
from reports.kv_budget import EXPECTED, budget_order, is_budget
from reports.labels import Labels
from reports.records import is_number
from reports.table import Entry, Table, group_starts
from reports.tables import budget_entry

Row = Mapping[str, Any]
GROUPS = ("0-4k", "4-8k", "8k+", "easy", "hard", "short", "medium", "long")
"""LongBench-E's length buckets and version 2's columns, in the official order."""


def check_longbench(value: Row, source: str) -> None:
    """Rows with a data set, a method and a budget; every score a percentage."""
    rows, entries = value.get("rows"), value.get("categories", [])
    needed = ("category", "method", "preset", "kv_budget", "mean")
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) and set(needed) <= set(e) for e in entries):
        raise ReportError(f"{source}: categories need {', '.join(needed)}")
    if not isinstance(rows, list):
        raise ReportError(f"{source}: expected a list 'rows', got {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        place = f"{source}: row {number}"
        if not isinstance(row, Mapping) or not all(isinstance(row.get(name), str) for name in ("task", "method")):
            raise ReportError(f"{place}: expected a task and a method, got {row!r:.80}")
        if not is_budget(row.get("kv_budget")):
            budget = repr(row["kv_budget"])
            raise ReportError(f"{place}: kv_budget is {budget}, expected {EXPECTED}")
        unknown = [name for name in (*row.get("groups", {}), *row.get("empty", {})) if name not in GROUPS]
        if unknown:
            raise ReportError(f"{place}: group {unknown[0]!r}, expected among {', '.join(GROUPS)}")
        for name, score in {"score": row.get("score", 0), **row.get("groups", {})}.items():
            if not is_number(score) or not 0 <= score <= 100:
                raise ReportError(f"{place}: {name} is {score!r}, expected a percentage")


def longbench_table(value: Row, labels: Labels) -> Table | None:
    """None for a run without LongBench rows."""
    rows: Sequence[Row] = value["rows"]
    if not rows:
        return None
    columns = list(dict.fromkeys(name for row in rows for name in (*row.get("groups", {}), *row.get("empty", {}))))
    columns.sort(key=GROUPS.index)
    body = []
    for row in rows:
        groups = row.get("groups", {})
        numbers = [row.get("score"), *(groups.get(name) for name in columns)]
        cells = [Entry() if number is None else Entry(f"{number:g}") for number in numbers]
        method, budget = Entry(labels.title(row["method"])), budget_entry(row)
        body.append((Entry(row["task"]), method, budget, Entry(str(row["n"])), *cells))
    empty = {f"{row['task']}: {why}" for row in rows for why in row.get("empty", {}).values()}
    notes = [
        f"As the official script rounds them; protocol {value.get('protocol', 'not stated')}. Samples are this run's "
        "test samples, which are not all of a data set.",
        *sorted(f"{reason}." for reason in empty),
    ]
    return Table(
        name="longbench",
        title="LongBench, official numbers",
        columns=("Data set", "Method", "KV budget", "Samples", "Score", *columns),
        rows=tuple(body),
        notes=tuple(notes),
        rules=group_starts([row["task"] for row in rows]),
        left=3,
    )


def category_table(value: Row, labels: Labels) -> Table | None:
    """Methods x categories; None where no category has a score. A mean over a part of a category says so."""
    entries: Sequence[Row] = value.get("categories") or []
    if not entries:
        return None
    names = list(dict.fromkeys(entry["category"] for entry in entries))
    lines: dict[tuple[Any, ...], dict[str, Row]] = {}
    for entry in sorted(entries, key=lambda e: (budget_order(e["kv_budget"]), e["method"], e["preset"])):
        lines.setdefault((entry["kv_budget"], entry["method"], entry["preset"]), {})[entry["category"]] = entry
    body = []
    for (_, method, _), means in lines.items():
        cells = [Entry(f"{means[name]['mean']:.2f}") if name in means else Entry() for name in names]
        body.append((Entry(labels.title(method)), budget_entry(next(iter(means.values()))), *cells))
    partial = {entry["category"]: entry["missing"] for entry in entries if entry.get("missing")}
    return Table(
        name="longbench_categories",
        title="LongBench, means over categories",
        columns=("Method", "KV budget", *names),
        rows=tuple(body),
        notes=tuple(f"{name}: without {', '.join(missing)}." for name, missing in partial.items()),
        rules=group_starts([kv_budget for kv_budget, _, _ in lines]),
        left=2,
    )
