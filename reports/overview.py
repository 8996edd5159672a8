"""All methods at a glance: the average of each benchmark at each budget, as one table (the figure: overview_plot.py).

The full cache, and methods that keep every position, have one number per benchmark, in a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reports.families import family
from reports.kv_budget import Budget, budget_order, budget_text, slot_positions
from reports.labels import Labels, is_full
from reports.raw_numbers import average_numbers
from reports.records import Variant, variant_of
from reports.score_tables import SIGNIFICANT, best_two
from reports.table import MISSING, Entry, Table, group_starts
from reports.tables import (
    fact_notes,
    interval_text,
    interval_words,
    no_average,
    out_of_reach,
    score_text,
    significance_notes,
)
from reports.text import file_stem

Row = Mapping[str, Any]
WHOLE = "all"


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
    by_place = {(row["benchmark"], row["kv_budget"], variant_of(row)): row for row in rows}
    columns = sorted({place[:2] for place in by_place}, key=lambda place: (place[0], budget_order(place[1])))
    names = list(dict.fromkeys(name for name, _ in columns))
    ranks = {place: _best(by_place, place) if labels.ranks else (None, None) for place in columns}
    significant = {
        (row["benchmark"], row["kv_budget"], variant_of(row))
        for row in metrics["differences_all_tasks"]
        if row.get("significant")
    }
    whole = {variant for _, budget, variant in by_place if budget is None}
    variants = [variant for variant in labels.variants if any(place[2] == variant for place in by_place)]
    body = []
    for variant in variants:
        line = [Entry(labels.name(variant))]
        for name, budget in columns:
            row = by_place.get((name, budget, variant))
            blank = (budget is None) != (variant in whole)
            mark = SIGNIFICANT * ((name, budget, variant) in significant)
            line.append(_entry(row, ranks[name, budget], mark) if row else Entry("" if blank else MISSING))
        body.append(tuple(line))
    interval = f" with its {interval_words(metrics)}" if any("low" in row for row in rows) else ""
    items = [item for line in body for item in line]
    notes = [f"Mean over tasks in percent{interval}, at KV slots per head{_share_words(rows)}."]
    if whole:
        notes.append(f"{WHOLE}: every position is kept, by the full cache or at fewer bits or channels.")
    if any(item.bold for item in items):
        notes.append("Best of each budget in bold, second underlined; methods that keep every position do not compete.")
    if any(item.mark for item in items):
        notes += significance_notes(metrics, labels, SIGNIFICANT)
    notes += out_of_reach(metrics, "differences_all_tasks", benchmark)
    if any("mean" not in row for row in rows):
        notes.append("No average where some task could not be run at this budget; the tables by task say why.")
    return Table(
        name="overview" if benchmark is None else f"overview_{file_stem(benchmark)}",
        title="Average scores" if benchmark is None else f"Average scores on {benchmark}",
        columns=("Method", *(WHOLE if budget is None else budget_text(budget) for _, budget in columns)),
        rows=tuple(body),
        notes=(*notes, *fact_notes(metrics, labels, benchmark)),
        heads=(("", 1), *((name, sum(place[0] == name for place in columns)) for name in names)),
        gaps=group_starts([family(variant.method) for variant in variants]),
        data=tuple(average_numbers(metrics, labels, benchmark)),
        details="not in LaTeX",
    )


def _share_words(rows: Sequence[Row]) -> str:
    """How many slots each share of the prompt comes to, over all benchmarks shown."""
    shares = [(budget, slots) for budget, slots in slot_positions(rows).items() if isinstance(budget, str)]
    texts = [f"{budget_text(budget)} is {slots:.0f} slots" for budget, slots in shares]
    return f" or a share of the prompt ({', '.join(texts)} on average)" if texts else ""


def _best(by_place: Mapping[Any, Row], place: tuple[str, Budget]) -> tuple[str | None, str | None]:
    """Best and second printed mean at a benchmark and budget; none among those that keep every position."""
    return (None, None) if place[1] is None else best_two(r for key, r in by_place.items() if key[:2] == place)


def _entry(row: Row, ranks: tuple[str | None, str | None], mark: str) -> Entry:
    if "mean" not in row:
        return Entry(no_average(row) if row.get("missing") else MISSING)
    text = score_text(row)
    return Entry(text, interval_text(row), text == ranks[0], text == ranks[1], mark)
