"""All methods at a glance: the average of each benchmark at each budget, as one table (the figure: overview_plot.py).

Methods stand in the order of their mean over what is shown, best first, where the run may rank them. The full cache,
and methods that keep every position, have one number per benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reports.kv_budget import Budget, budget_order, budget_text, slot_positions
from reports.labels import Labels, is_full
from reports.records import Variant, variant_of
from reports.table import MISSING, Entry, Table
from reports.tables import fact_notes, interval_text, interval_words, no_average, score_text

Row = Mapping[str, Any]


def ranked(metrics: Row, labels: Labels) -> list[Variant]:
    """Variants in the order of a table: by score, or in the order of the labels where these do not rank."""
    return by_score(metrics, labels) if labels.ranks else labels.variants


def by_score(metrics: Row, labels: Labels) -> list[Variant]:
    """Variants by the mean of their averages, best first; those without any, last. The full cache apart, on top."""
    means: dict[Variant, list[float]] = {}
    for row in metrics["averages"]:
        means.setdefault(variant_of(row), []).extend([row["mean"]] if "mean" in row else [])

    def key(variant: Variant) -> tuple[bool, float]:
        values = means.get(variant, [])
        return not is_full(variant), -float(np.mean(values)) if values else np.inf

    return sorted(labels.variants, key=key)


def overview_table(metrics: Row, labels: Labels, benchmark: str | None = None) -> Table | None:
    """Methods x (benchmark, budget), of all benchmarks or of one. None where there is no average."""
    rows = [row for row in metrics["averages"] if benchmark in (None, row["benchmark"])]
    if not rows:
        return None
    places = {(r["benchmark"], r["kv_budget"]) for r in rows}
    budgets: list[Budget] = sorted({b for _, b in places if b is not None}, key=budget_order) or [None]
    by_place = {(r["benchmark"], r["kv_budget"], variant_of(r)): r for r in rows}
    best = {place: _best(by_place, place) if labels.ranks else None for place in places}
    columns = [(name, budget) for name in sorted({name for name, _ in places}) for budget in budgets]
    interval = f" with its {interval_words(metrics)}" if any("low" in row for row in rows) else ""
    order = "; best first" if labels.ranks else ""
    body = []
    for variant in ranked(metrics, labels):
        line = [Entry(labels.name(variant))]
        for name, budget in columns:
            row = by_place.get((name, budget, variant))
            first = budget == budgets[0]
            if row is None and first:  # one number, whatever the budget
                row = by_place.get((name, None, variant))
            missing = Entry(MISSING if first else "")
            line.append(_entry(row, best.get((name, budget))) if row is not None else missing)
        body.append(tuple(line))
    return Table(
        name="overview" if benchmark is None else f"overview_{benchmark}",
        title="Average scores" if benchmark is None else f"Average scores on {benchmark}",
        columns=("Method", *(_head(name if benchmark is None else "", budget) for name, budget in columns)),
        rows=tuple(body),
        notes=(
            f"Mean over tasks in percent{interval}, at KV slots per head{_share_words(rows)}{order}.",
            "Methods that keep every position, the full cache among them, have one number.",
            "No average where some task could not be run at this budget; the tables by task say why.",
            *fact_notes(metrics, labels, benchmark),
        ),
    )


def _share_words(rows: Sequence[Row]) -> str:
    """How many slots each share of the prompt comes to, over all benchmarks shown."""
    shares = [(budget, slots) for budget, slots in slot_positions(rows).items() if isinstance(budget, str)]
    texts = [f"{budget_text(budget)} is {slots:.0f} slots" for budget, slots in shares]
    return f" or a share of the prompt ({', '.join(texts)} on average)" if texts else ""


def _head(name: str, budget: Budget) -> str:
    return " ".join(part for part in (name, "" if budget is None else budget_text(budget)) if part) or "all"


def _best(by_place: Mapping[Any, Row], place: tuple[str, Budget]) -> str | None:
    """The best printed mean at a benchmark and budget; None where fewer than two methods compete."""
    means = [score_text(r) for key, r in by_place.items() if key[:2] == place and "mean" in r and place[1] is not None]
    return max(means, key=float) if len(means) > 1 else None


def _entry(row: Row, best: str | None) -> Entry:
    if "mean" not in row:
        return Entry(no_average(row) if row.get("missing") else MISSING)
    text = score_text(row)
    return Entry(text, interval_text(row), bold=text == best and row["kv_budget"] is not None)
