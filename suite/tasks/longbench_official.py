"""A run's LongBench numbers as the official scripts would print them, from its stored answers.

The report's own means carry intervals; these carry the official rounding, LongBench-E's buckets, version 2's columns,
and the means over categories. They are judged again from the texts, since a rounded percentage loses the last digit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from longbench.official import judge_sample, official_scores
from longbench.protocol import Protocol, finish_prediction
from longbench.tasks import TASKS, base_name, category_means
from reports.kv_budget import budget_order, mean_slots

SCHEMA = 1
ROW = ("method", "preset", "kv_budget")


def judge(record: dict[str, Any], protocol: Protocol) -> float:
    """One stored answer, in [0, 1]."""
    text = finish_prediction(protocol, record["prediction"], base_name(record["task"]))
    return judge_sample(record["task"], text, record["references"], record.get("all_classes"))


def official_numbers(records: Iterable[dict[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """One row per (task, method, preset, kv_budget); a row counts its infeasible samples."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["benchmark"] == "longbench":
            cells[record["task"], *(record[name] for name in ROW)].append(record)
    rows = [_row(key, members, protocol) for key, members in sorted(cells.items(), key=_order)]
    return {"schema": SCHEMA, "protocol": protocol.name, "rows": rows, "categories": _categories(rows)}


def _order(cell: tuple[tuple[Any, ...], Any]) -> tuple[Any, ...]:
    task, method, preset, kv_budget = cell[0]
    return task, budget_order(kv_budget), method, preset


def _slots(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Mean slots per head of rows whose budget is a share of the prompt; nothing for a number of slots."""
    slots = mean_slots(row for row in rows if isinstance(row["kv_budget"], str))
    return {} if slots is None else {"kv_slots": slots}


def _row(key: tuple[Any, ...], members: list[dict[str, Any]], protocol: Protocol) -> dict[str, Any]:
    feasible = [record for record in members if record["score"] is not None]
    row = dict(zip(("task", *ROW), key, strict=True)) | {"n": len(feasible)} | _slots(members)
    if len(feasible) < len(members):
        row["infeasible"] = len(members) - len(feasible)
    if not feasible:
        return row
    values = [judge(record, protocol) for record in feasible]
    return row | official_scores(key[0], values, [record.get("groups", {}) for record in feasible])


def _categories(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over version 1's categories, of the plain data sets alone; which data sets each is over."""
    by_cell: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["task"] in TASKS and "score" in row:
            by_cell[tuple(row[name] for name in ROW)].append(row)
    return [
        dict(zip(ROW, key, strict=True)) | _slots(members) | {"category": category, **asdict(mean)}
        for key, members in by_cell.items()
        for category, mean in category_means({row["task"]: row["score"] for row in members}).items()
    ]
