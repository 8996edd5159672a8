"""The tables of scores, as papers print them: methods by family down, data sets by category across, a block per budget,
the average last; best in bold, second underlined, and a sign where the difference to the baseline is significant.

Missing stays missing: a dash where nothing was run, "(k)" with its reason below the table where a method could not
meet the budget. Neither is ever best, and neither enters an average.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reports.categories import grouped, short_name
from reports.families import family
from reports.kv_budget import Budget, budget_order, budget_text, slots_text
from reports.labels import Labels
from reports.raw_numbers import average_numbers, cell_numbers
from reports.records import Variant, variant_of
from reports.table import MISSING, Entry, Table, group_starts
from reports.tables import (
    fact_notes,
    interval_text,
    interval_words,
    out_of_reach,
    score_text,
    significance_notes,
)
from reports.text import clip, file_stem, visible

Row = Mapping[str, Any]
SIGNIFICANT = "†"
PARTIAL = "‡"
AVERAGE = "Average"
WHOLE = "All positions kept"
LONGEST_REASON = 300  # characters of a note


def score_tables(metrics: Row, labels: Labels) -> list[Table]:
    """Per benchmark: methods x tasks for every budget, the full cache on top, best of each budget in bold."""
    benchmarks = sorted({row["benchmark"] for row in metrics["cells"]})
    return [_score_table(metrics, labels, benchmark) for benchmark in benchmarks]


def _score_table(metrics: Row, labels: Labels, benchmark: str) -> Table:
    cells = [row for row in metrics["cells"] if row["benchmark"] == benchmark]
    groups = grouped(benchmark, {row["task"] for row in cells})
    tasks = [task for members in groups.values() for task in members]
    columns = {task: _with_partial([row for row in cells if row["task"] == task]) for task in tasks}
    significant = {(row["task"], _place(row)) for row in metrics["differences"] if _differs(row, benchmark)}
    if len(tasks) > 1:
        averages = [row for row in metrics["averages"] if row["benchmark"] == benchmark]
        columns[AVERAGE] = {
            place: {**row, "partial": any(column[place]["partial"] for column in columns.values() if place in column)}
            for place, row in ((_place(row), row) for row in averages)
        }
        overall = metrics["differences_all_tasks"]
        significant |= {(AVERAGE, _place(row)) for row in overall if _differs(row, benchmark)}
    places = sorted({_place(row) for row in cells}, key=lambda place: (budget_order(place[0]), labels.order(place[1])))
    sizes = {_place(row): row for row in metrics["memory"] if row["benchmark"] == benchmark}
    reasons: list[str] = []
    rows = []
    for place in places:
        group = [rival for rival in places if rival[0] == place[0]]
        row = [Entry(labels.name(place[1]))]
        for name, column in columns.items():
            rivals = [column[rival] for rival in group if rival in column]
            ranks = best_two(rivals) if labels.ranks and place[0] is not None else (None, None)
            row.append(_score_entry(column.get(place), ranks, reasons, (name, place) in significant))
        rows.append(tuple(row))
    starts = sorted({0, *group_starts([place[0] for place in places])}) if places else []
    heads = [("", 1), *((title, len(members)) for title, members in groups.items())]
    return Table(
        name=f"scores_{file_stem(benchmark)}",
        title=f"Scores on {benchmark}",
        columns=("Method", *columns),
        rows=tuple(rows),
        notes=tuple(_score_notes(metrics, labels, benchmark, cells, rows, reasons)),
        heads=(*heads, *([("", 1)] if AVERAGE in columns else [])) if any(groups) else (),
        blocks=tuple((start, block_title(sizes[places[start]])) for start in starts),
        gaps=group_starts([family(place[1].method) for place in places]),
        short=("Method", *(short_name(benchmark, task) for task in tasks), *(["Avg."] if AVERAGE in columns else [])),
        data=tuple([*cell_numbers(metrics, labels, benchmark), *average_numbers(metrics, labels, benchmark)]),
        details="apart",
    )


def _score_notes(
    metrics: Row,
    labels: Labels,
    benchmark: str,
    cells: Sequence[Row],
    rows: Iterable[Sequence[Entry]],
    reasons: list[str],
) -> list[str]:
    shown = [item for row in rows for item in row]
    intervals = f"; {interval_words(metrics)} in the companion table" if any("low" in row for row in cells) else ""
    notes = [f"Score in percent; {_sample_words(cells)}{intervals}."]
    if any(item.bold for item in shown):
        notes.append(
            "Best of each budget in bold, second underlined, ties within rounding alike; methods that keep every "
            "position do not compete."
        )
    if any(SIGNIFICANT in item.mark for item in shown):
        notes += significance_notes(metrics, labels, SIGNIFICANT)
    notes += out_of_reach(metrics, "differences_all_tasks", benchmark) + out_of_reach(metrics, "differences", benchmark)
    if any(PARTIAL in item.mark for item in shown):
        notes.append(f"{PARTIAL} over fewer samples than the other methods of its column: not comparable, never best.")
    if any("low" in row and row["low"] == row["high"] for row in cells):
        notes.append("No width: every sample scored the same. Events rarer than about 3/n go unseen with n samples.")
    if any("/" in row[-1].text for row in rows):
        notes.append("k/n: no average, as only k of the n tasks could be run at this budget.")
    notes += [f"({number}) {clip(visible(reason), LONGEST_REASON)}." for number, reason in enumerate(reasons, start=1)]
    if reasons:
        notes.append("A reason's numbers are those of its first prompt.")
    return notes + fact_notes(metrics, labels, benchmark)


def _differs(row: Row, benchmark: str) -> bool:
    """Whether a paired difference to the baseline is significant after correction; never where none was made."""
    return row["benchmark"] == benchmark and bool(row.get("significant"))


def block_title(row: Row) -> str:
    """Of the rows of one budget: "64 KV slots per head"."""
    budget = row["kv_budget"]
    if budget is None:
        return WHOLE
    if isinstance(budget, str):
        return f"{budget_text(budget)} of the prompt {slots_text(row)}".rstrip()
    return f"{budget} KV slots per head"


def best_two(rows: Iterable[Row]) -> tuple[str | None, str | None]:
    """The best printed mean, where two methods or more compete and not all are alike; and the next below it, where
    three or more do.
    """
    means = [float(score_text(row)) for row in rows if "mean" in row and not row.get("partial")]
    order = sorted(set(means), reverse=True)
    if len(order) < 2:
        return None, None
    return f"{order[0]:.1f}", f"{order[1]:.1f}" if len(means) > 2 else None


def _score_entry(
    row: Row | None, ranks: tuple[str | None, str | None], reasons: list[str], significant: bool = False
) -> Entry:
    if row is not None and "mean" not in row and row.get("missing"):
        return Entry(f"{row['tasks']}/{row['tasks'] + len(row['missing'])}")
    why = [] if row is None else [f"Infeasible: {r}" for r in row.get("infeasible", {})]
    why += [] if row is None else list(row.get("unsupported", {}))
    if row is None or ("mean" not in row and not why):
        return Entry(MISSING)
    if "mean" not in row:
        kinds: dict[str, str] = {}
        for reason in why:
            kinds.setdefault(_without_numbers(reason), reason)
        numbered = [_without_numbers(reason) for reason in reasons]
        kind = "; ".join(kinds)
        if kind not in numbered:
            numbered.append(kind)
            reasons.append("; ".join(kinds.values()))
        return Entry(f"({numbered.index(kind) + 1})")
    text = score_text(row)
    partial = bool(row.get("partial"))
    marks = SIGNIFICANT * significant + PARTIAL * partial
    best, second = ranks
    return Entry(text, interval_text(row), text == best and not partial, text == second and not partial, marks)


def _without_numbers(reason: str) -> str:
    """What reasons have in common that differ in their prompts' lengths only."""
    return re.sub(r"\d+", "#", reason)


def _sample_words(cells: Sequence[Row]) -> str:
    counts = {row["feasible"] for row in cells if row["feasible"]}
    if not counts:
        return "no feasible sample"
    low, high = min(counts), max(counts)
    if low == high:
        return "1 sample per cell" if low == 1 else f"{low} samples per cell"
    return f"{low} to {high} samples per cell"


def _place(row: Row) -> tuple[Budget, Variant]:
    return (row["kv_budget"], variant_of(row))


def _with_partial(rows: Sequence[Row]) -> dict[Any, Row]:
    """Rows by place; "partial": whether a row rests on fewer samples than its column has."""
    most = max(row["n"] for row in rows)
    return {_place(row): {**row, "partial": row["feasible"] < most} for row in rows}
