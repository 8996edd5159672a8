"""Head-masking curves and the transfer matrix of a run: its masking.json and transfer.json.

A run with neither file has no section here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.errors import ReportError
from reports.kv_budget import budget_words
from reports.records import is_number
from reports.table import Entry, Table, group_starts, to_markdown
from reports.tables import interval_text

Record = Mapping[str, Any]
CUTS = ("top", "bottom", "random")
AVERAGES = {
    "own": "own task's scores",
    "transferred": "another task's scores",
    "transferred - own": "difference",
    "uniform": "uniform budgets (SnapKV)",
    "full": "full cache",
}


def head_experiments(masking: Record | None, transfer: Record | None, folder: Path) -> tuple[list[str], list[Table]]:
    """Markdown parts and tables of the records that exist; figures are written into `folder` (PNG, SVG)."""
    from reports.heatmap import matrix_figure
    from reports.masking_plot import (
        masking_figure,  # here, because matplotlib takes longer to load than a table to print
    )
    from reports.style import save

    parts: list[str] = []
    tables: list[Table] = []
    if masking is not None:
        tables.append(masking_table(masking))
        parts += ["## Masking heads\n", to_markdown(tables[-1])]
        save(masking_figure(masking), folder, "masking_curves", "svg")
        parts.append("![Score over the number of masked heads](masking_curves.png)\n")
    if transfer is not None:
        transfer_tables = [transfer_table(transfer), *([averages_table(transfer)] if transfer["averages"] else [])]
        tables += transfer_tables
        parts += ["## Head scores of another task\n", *map(to_markdown, transfer_tables)]
        save(matrix_figure(**transfer_matrix(transfer)), folder, "transfer_matrix", "svg")
        parts.append("![Score by the task whose head scores are used](transfer_matrix.png)\n")
    return parts, tables


def masking_table(record: Record) -> Table:
    """The curves' mean heights: how much is lost on the way from no head to all, from either end."""
    body, keys = [], []
    for curve in record["curves"]:
        keys.append(curve["task"])
        areas = curve.get("areas", {})
        counts = [point["heads"] for point in curve["points"]] or [0]
        body.append(
            (
                Entry(curve["task"]),
                Entry(curve["scores"] + ("" if curve["preset"] == "normalized" else f" ({curve['preset']})")),
                Entry(f"{min(counts)} to {max(counts)} of {curve['num_players']}"),
                _entry(curve["full"]),
                *(_entry(areas.get(cut)) for cut in CUTS),
                _entry(curve.get("separation"), sign=True),
            )
        )
    notes = (
        "Score in percent when heads see only the window, averaged over the number of such heads, with 95 % "
        "intervals over samples. Official: the released rule, which masks one head more from the top. Top: highest "
        "scores first. A good ranking loses early from the top and late from the bottom; bottom minus top is paired on "
        "the same samples, and 0 for a ranking that knows nothing.",
    )
    columns = (
        "Task",
        "Scores",
        "Heads masked",
        "No head",
        "From the top",
        "From the bottom",
        "Random",
        "Bottom minus top",
    )
    return Table("masking", "Masking heads by score", columns, tuple(body), notes, group_starts(keys), left=3)


def transfer_table(record: Record) -> Table:
    """Sources down, targets across; own scores in bold; uniform budgets and the full cache below."""
    cells = {(cell["source"], cell["target"]): cell for cell in record["cells"]}
    base = {(row["name"], row["target"]): row for row in record["baselines"]}
    body = [
        (Entry(source), *(_entry(cells.get((source, target)), bold=source == target) for target in record["targets"]))
        for source in record["sources"]
    ]
    for name in ("uniform", "full"):
        body.append((Entry(AVERAGES[name]), *(_entry(base.get((name, target))) for target in record["targets"])))
    notes = (
        f"CoKV at {budget_words(record)}: score in percent on the task of the column with the head "
        "scores of the task of the row, with 95 % intervals over samples. Bold: its own scores.",
    )
    columns = ("Scores of", *record["targets"])
    rules = frozenset({len(record["sources"])})
    return Table("transfer", "Head scores of one task used on another", columns, tuple(body), notes, rules)


def averages_table(record: Record) -> Table:
    """Means over tasks: with own scores, with others', and the paired difference."""
    averages = record["averages"]
    body = [(Entry(title), _entry(averages[name], sign="-" in name)) for name, title in AVERAGES.items()]
    notes = ("Averages over the tasks that have scores; of another task's: over every other task.",)
    return Table("transfer_average", "On average over tasks", ("Budgets by", "Score"), tuple(body), notes)


def transfer_matrix(record: Record) -> dict[str, Any]:
    """What `matrix_figure` draws: sources and baselines down, targets across."""
    cells = {(cell["source"], cell["target"]): cell["score"] for cell in record["cells"]}
    base = {(row["name"], row["target"]): row["score"] for row in record["baselines"]}
    rows = [[cells.get((source, target)) for target in record["targets"]] for source in record["sources"]]
    rows += [[base.get((name, target)) for target in record["targets"]] for name in ("uniform", "full")]
    return {
        "cells": rows,
        "rows": [*record["sources"], "uniform", "full"],
        "columns": record["targets"],
        "title": f"Score (%) at {budget_words(record)}",
        "labels": ("head scores of", "task"),
        "span": (0.0, 100.0),
        "digits": 0,
    }


def check_masking(record: Record, source: str) -> None:
    """Raise ReportError unless every curve can be drawn."""
    curves = record.get("curves")
    if not isinstance(curves, list) or not curves:
        raise ReportError(f"{source}: curves must be a list of at least one, got {curves!r:.60}")
    for number, curve in enumerate(curves, start=1):
        place = f"{source}: curve {number}"
        if not isinstance(curve, Mapping) or not all(
            isinstance(curve.get(key), str) for key in ("task", "scores", "preset")
        ):
            raise ReportError(f"{place}: needs task, scores and preset as text")
        points = curve.get("points")
        if not isinstance(points, list) or not isinstance(curve.get("num_players"), int):
            raise ReportError(f"{place}: needs num_players and a list of points")
        _check_scores([curve.get("full"), *points], place)
        for point in points:
            if point.get("cut") not in CUTS or not isinstance(point.get("heads"), int):
                raise ReportError(f"{place}: a point needs a cut ({', '.join(CUTS)}) and heads, got {point!r:.60}")
        _check_scores([*curve.get("areas", {}).values(), *([curve["separation"]] * ("separation" in curve))], place)


def check_transfer(record: Record, source: str) -> None:
    """Raise ReportError unless the matrix can be shown."""
    for key in ("sources", "targets", "cells", "baselines"):
        if not isinstance(record.get(key), list) or not record[key]:
            raise ReportError(f"{source}: {key} must be a list of at least one, got {record.get(key)!r:.60}")
    averages = record.get("averages")
    if not isinstance(averages, Mapping) or (averages and not averages.keys() >= AVERAGES.keys()):
        raise ReportError(f"{source}: averages must be empty or hold {', '.join(AVERAGES)}")
    _check_scores([*record["cells"], *record["baselines"], *averages.values()], source)


def _check_scores(rows: list[Any], source: str) -> None:
    for row in rows:
        if not isinstance(row, Mapping):
            raise ReportError(f"{source}: expected an object with a score, got {row!r:.60}")
        for key in ("score", *(("low", "high") if "low" in row or "high" in row else ())):
            value = row.get(key)
            if not is_number(value):
                raise ReportError(f"{source}: {key} must be a finite number, got {value!r:.40}")


def _entry(row: Record | None, sign: bool = False, bold: bool = False) -> Entry:
    if row is None:
        return Entry()
    text = format(row["score"], "+.1f" if sign else ".1f").replace("-", "\N{MINUS SIGN}")
    return Entry(text, interval_text(row, sign=sign), bold)
