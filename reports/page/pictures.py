"""What the page's pictures show, as plain numbers: the drawing is the page's own."""

from __future__ import annotations

from typing import Any

from reports.kv_budget import budget_order, budget_text, slot_positions
from reports.labels import is_full
from reports.overview import by_score
from reports.records import variant_of
from reports.rundir import Run
from reports.side_tables import head_scores, removal_rows


def pictures(run: Run) -> dict[str, Any]:
    return {
        "overview": _overview(run),
        "curves": _curves(run),
        "heads": _heads(run),
        "masking": _masking(run),
    }


def _overview(run: Run) -> dict[str, Any]:
    """Averages with their intervals; methods and budgets in the order of the report."""
    rows = [row for row in run.metrics["averages"] if "mean" in row]
    budgets = sorted({row["kv_budget"] for row in rows}, key=budget_order)
    variants = run.labels.variants
    full = [run.labels.name(variant) for variant in variants if is_full(variant)]
    best = by_score(run.metrics, run.labels) if run.labels.ranks else variants
    return {
        "full": full[0] if full else None,
        "coloured": [run.labels.name(v) for v in best if not is_full(v) and any(r["method"] == v.method for r in rows)],
        "methods": [run.labels.name(variant) for variant in variants],
        "budgets": [budget_text(budget) for budget in budgets if budget is not None],
        "points": [_point(run, row) for row in rows],
    }


def _curves(run: Run) -> list[dict[str, Any]]:
    """Score against slots, of every task and of the average; what takes no budget has no slots."""
    positions = slot_positions([*run.metrics["cells"], *run.metrics["averages"]])
    rows = [{"task": "average", **row} for row in run.metrics["averages"]] + list(run.metrics["cells"])
    return [
        {**_point(run, row), "task": row["task"], "slots": positions.get(row["kv_budget"])}
        for row in rows
        if "mean" in row
    ]


def _point(run: Run, row: Any) -> dict[str, Any]:
    variant = variant_of(row)
    point = {
        "benchmark": row["benchmark"],
        "method": run.labels.name(variant),
        "budget": budget_text(row["kv_budget"]),
        "mean": row["mean"],
        "n": row.get("feasible", row.get("n")),
    }
    return point | {key: row[key] for key in ("low", "high") if key in row}


def _heads(run: Run) -> list[dict[str, Any]]:
    """Head scores per task, [num_layers][num_kv_heads]."""
    tasks = (run.stability or {}).get("tasks") or {}
    return [
        {"task": task, "scores": head_scores(entry).round(5).tolist()}
        for task, entry in sorted(tasks.items())
        if entry.get("runs")
    ]


def _masking(run: Run) -> list[dict[str, Any]]:
    """Score over the number of heads without the prompt: masking curves, else the removal of the head-score stage."""
    points = []
    for curve in (run.masking or {}).get("curves") or []:
        name = curve["task"] + ("" if curve["scores"] == "run" else f", scores of {curve['scores']}")
        name += "" if curve["preset"] == "normalized" else f" ({curve['preset']})"
        for point in curve["points"]:
            points.append(_cut(name, point, curve["num_players"], curve["full"]["score"]))
    if points or not run.stability:
        return points
    players = run.stability["num_players"]
    return [
        _cut(task, row, players, row.get("full_score"))
        for task, row in removal_rows(run.stability)
        if row.get("score") is not None
    ]


def _cut(name: str, point: Any, players: int, full: float | None) -> dict[str, Any]:
    shown = {"task": name, "cut": point["cut"], "heads": point["heads"], "of": players, "score": point["score"]}
    return shown | {"full": full} | {key: point[key] for key in ("low", "high") if key in point}
