"""All methods at a glance: the average of each benchmark at each budget, as one table (the figure: overview_plot.py).

Methods stand in the order of their mean over what is shown, best first. The full cache, and methods that keep every
position, have one number per benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reports.labels import Labels, is_full
from reports.records import Variant, variant_of
from reports.table import MISSING, Cell, Table
from reports.tables import interval_text, interval_words, no_average, score_text

Row = Mapping[str, Any]


def ranked(metrics: Row) -> list[Variant]:
    """Variants by the mean of their averages, best first; those without any, last. The full cache apart, on top."""
    means: dict[Variant, list[float]] = {}
    for row in metrics["averages"]:
        means.setdefault(variant_of(row), []).extend([row["mean"]] if "mean" in row else [])
    order = Labels(metrics["cells"]).variants

    def key(variant: Variant) -> tuple[bool, float, int]:
        mine = means.get(variant, [])
        return not is_full(variant), -float(np.mean(mine)) if mine else np.inf, order.index(variant)

    return sorted(order, key=key)


def overview_table(metrics: Row, benchmark: str | None = None) -> Table | None:
    """Methods x (benchmark, budget), of all benchmarks or of one. None where there is no average."""
    rows = [row for row in metrics["averages"] if benchmark in (None, row["benchmark"])]
    if not rows:
        return None
    labels, places = Labels(metrics["cells"]), _places(rows)
    budgets: list[int | None] = [*sorted({b for _, b in places if b is not None})] or [None]
    by_place = {(r["benchmark"], r["kv_budget"], variant_of(r)): r for r in rows}
    best = {place: _best(by_place, place) for place in places}
    columns = [(name, budget) for name in sorted({name for name, _ in places}) for budget in budgets]
    interval = f" with its {interval_words(metrics)}" if any("low" in row for row in rows) else ""
    body = []
    for variant in ranked(metrics):
        line = [Cell(labels.name(variant))]
        for name, budget in columns:
            row = by_place.get((name, budget, variant))
            first = budget == budgets[0]
            if row is None and first:  # one number, whatever the budget
                row = by_place.get((name, None, variant))
            line.append(_cell(row, best.get((name, budget))) if row is not None else Cell("" if not first else MISSING))
        body.append(tuple(line))
    return Table(
        name="overview" if benchmark is None else f"overview_{benchmark}",
        title="Average scores" if benchmark is None else f"Average scores on {benchmark}",
        columns=("Method", *(_head(name if benchmark is None else "", budget) for name, budget in columns)),
        rows=tuple(body),
        notes=(
            f"Mean over tasks in percent{interval}, at KV slots per head; best first.",
            "Methods that keep every position, the full cache among them, have one number.",
            "No average where some task could not be run at this budget; the tables by task say why.",
        ),
    )


def _head(name: str, budget: int | None) -> str:
    return " ".join(part for part in (name, "" if budget is None else str(budget)) if part) or "all"


def _places(rows: Sequence[Row]) -> list[tuple[str, int | None]]:
    return list({(r["benchmark"], r["kv_budget"]): None for r in rows})


def _best(by_place: Mapping[Any, Row], place: tuple[str, int | None]) -> str | None:
    found = [r for key, r in by_place.items() if key[:2] == place and "mean" in r and place[1] is not None]
    return max((score_text(r) for r in found), key=float) if len(found) > 1 else None


def _cell(row: Row, best: str | None) -> Cell:
    if "mean" not in row:
        return Cell(no_average(row) if row.get("missing") else MISSING)
    text = score_text(row)
    return Cell(text, interval_text(row), bold=text == best and row["kv_budget"] is not None)
