"""One measured number beside one published: the difference with the measurement's interval, and what differs.

Same model: the score minus the published one, in points. Another model: both in percent of their own full cache, on the
same samples or in the same table, and the difference of these. A published value has no interval; those given are of
the measurement alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reports.aggregate import aggregate
from reports.intervals import share_interval
from reports.protocol_difference import Difference
from reports.published_cells import (
    Row,
    budget_key,
    full_of,
    is_same_model,
    published_benchmarks,
    published_for,
    rows,
)
from reports.questions import by_question, question_scores
from reports.records import FULL, Record, sample_key, variant_of
from reports.reported.names import kv_budget_of, methods
from reports.reported.sources import source_of
from reports.reported.table import RATIO_TO_FULL, PublishedValue
from reports.run_protocol import differences
from reports.rundir import Run

Cell = Mapping[str, Any]
_Share = tuple[float, float | None, float | None, int]  # percent, its interval, samples


@dataclass(frozen=True)
class Comparison:
    """cell: the run's row, or that of its average. over: the data sets. relative: in percent of the full cache.

    measured: None where the method could not meet the budget, with `why`. low, high: None with one sample.
    """

    cell: Cell
    published: PublishedValue
    over: tuple[str, ...]
    relative: bool
    value: float
    measured: float | None
    low: float | None
    high: float | None
    n: int
    differences: tuple[Difference, ...]
    why: str = ""
    printed: bool = True  # False for the mean of a row whose source prints none

    @property
    def difference(self) -> float | None:
        return None if self.measured is None else self.measured - self.value


@dataclass(frozen=True)
class _Records:
    """A run's records by benchmark, task, variant and budget; what was computed from them once."""

    by_cell: Mapping[tuple[Any, ...], Sequence[Record]]
    shares: dict[tuple[Any, ...], _Share | None] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> _Records:
        by_cell: dict[tuple[Any, ...], list[Record]] = {}
        for record in run.records:
            by_cell.setdefault(_place(record), []).append(record)
        return cls(by_cell)

    def cell(self, cell: Cell) -> Sequence[Record]:
        return self.by_cell.get(_place(cell), ())

    def full(self, cell: Cell) -> Sequence[Record]:
        """The full cache under the same protocol; its first token is the same from either place."""
        wanted = (cell["benchmark"], cell["task"], FULL, cell["query_aware"])
        for (name, task, _, variant), members in self.by_cell.items():
            if (name, task, variant.method, variant.query_aware) == wanted:
                return members
        return ()

    def share(self, cells: Sequence[Cell]) -> _Share | None:
        """What the cells keep of the full cache's score, in percent, every data set weighted alike."""
        places = tuple(map(_place, cells))
        if places not in self.shares:
            self.shares[places] = _share([(self.cell(cell), self.full(cell)) for cell in cells])
        return self.shares[places]


def _place(row: Cell) -> tuple[Any, ...]:
    return row["benchmark"], row["task"], budget_key(row["kv_budget"]), variant_of(row)


def compare_cells(run: Run, paper: str | None = None) -> list[Comparison]:
    """Every cell of the run that someone published, in the order of the run's metrics."""
    records = _Records.of(run)
    out = []
    for cell in run.metrics["cells"]:
        if run.labels.facts.ours(cell["method"], cell["preset"]):
            continue  # an ablation of this project's is no paper's method
        names = published_benchmarks(run, cell["benchmark"])
        for published in published_for(names, cell["task"], cell["method"], cell["kv_budget"], paper):
            out += _of_cell(run, records, cell, published)
    return out


def _of_cell(run: Run, records: _Records, cell: Cell, published: PublishedValue) -> list[Comparison]:
    over, same = (cell["task"],), is_same_model(run, published)
    full = None if same else full_of(published)
    if not same and (cell["method"] == FULL or full is None or full.value == 0):
        return []  # relative to itself, or to nothing
    value = published.value if full is None else 100 * published.value / full.value
    differing = tuple(differences(run, cell, records.cell(cell), published, source_of(published)))
    if "mean" not in cell:
        why = "; ".join((cell.get("infeasible") or cell.get("unsupported") or {"no sample has a score": 1}).keys())
        return [Comparison(cell, published, over, not same, value, None, None, None, 0, differing, why)]
    if same:
        kept: _Share | None = (cell["mean"], cell.get("low"), cell.get("high"), cell["feasible"])
    else:
        kept = records.share([cell])
    return [] if kept is None else [Comparison(cell, published, over, not same, value, *kept, differing)]


def compare_averages(run: Run, paper: str | None = None) -> list[Comparison]:
    """Every published average of which the run has all data sets, for each of the run's methods and budgets."""
    records, out = _Records.of(run), []
    lines: dict[tuple[Any, ...], dict[str, Cell]] = {}
    for cell in run.metrics["cells"]:
        if not run.labels.facts.ours(cell["method"], cell["preset"]):
            line = (cell["benchmark"], budget_key(cell["kv_budget"]), variant_of(cell))
            lines.setdefault(line, {})[cell["task"]] = cell
    for (benchmark, budget, variant), cells in lines.items():
        names = published_benchmarks(run, benchmark)
        for row in rows(paper):
            fits = row.average.benchmark in names and variant.method in methods()[row.average.method].ours
            same_budget = budget_key(kv_budget_of(row.average.budget)) == budget
            if fits and same_budget and set(row.datasets) <= cells.keys():
                out += _of_average(run, records, [cells[name] for name in row.datasets], row)
    return out


def _of_average(run: Run, records: _Records, cells: Sequence[Cell], row: Row) -> list[Comparison]:
    published, first = row.average, cells[0]
    of_full = published.dataset == RATIO_TO_FULL
    relative = of_full or not is_same_model(run, published)
    value: float | None = published.value
    if relative:
        full = 1.0 if of_full else _full_average(row)
        value = 100 * published.value / full if full and first["method"] != FULL else None
    if value is None:
        return []
    differing = _shared([differences(run, c, records.cell(c), published, source_of(published)) for c in cells])
    without = [cell["task"] for cell in cells if "mean" not in cell]
    if without:  # an average over fewer data sets is another one
        why = f"no score in {', '.join(without)}"
        return [
            Comparison(
                first, published, row.datasets, relative, value, None, None, None, 0, differing, why, row.printed
            )
        ]
    if relative:
        kept = records.share(cells)
    else:
        (average,) = aggregate([record for cell in cells for record in records.cell(cell)])["averages"]
        kept = (average["mean"], average.get("low"), average.get("high"), average["n"])
    if kept is None:
        return []
    return [Comparison(first, published, row.datasets, relative, value, *kept, differing, printed=row.printed)]


def _full_average(row: Row) -> float | None:
    """The published full cache's average over the same data sets, printed where the row's own is."""
    same = [
        other
        for other in rows(None)
        if (other.average.paper, other.average.model, other.average.benchmark)
        == (row.average.paper, row.average.model, row.average.benchmark)
        and kv_budget_of(other.average.budget) is None
        and set(other.datasets) == set(row.datasets)
    ]
    noted = [other for other in same if other.average.note == row.average.note] or same
    return noted[0].average.value if len(noted) == 1 else None


def _share(pairs: Sequence[tuple[Sequence[Record], Sequence[Record]]]) -> _Share | None:
    """Over tasks of equal weight; None without a full cache above 0.

    pairs: the records of a method and of the full cache, by task. A question asked under several seeds counts once.
    """
    parts, wholes = [], []
    for members, full in pairs:
        reference = {sample_key(r): r for r in full if r["score"] is not None}
        scored = [r for r in members if r["score"] is not None and sample_key(r) in reference]
        if not scored:
            return None
        parts.append(question_scores(by_question(scored)))
        wholes.append(question_scores(by_question(reference[sample_key(r)] for r in scored)))
    top, bottom = (sum(float(scores.mean()) for scores in side) for side in (parts, wholes))
    if bottom == 0:
        return None
    n = sum(map(len, parts))
    if any(len(scores) < 2 for scores in parts):
        return 100 * top / bottom, None, None, n
    low, high = share_interval(parts, wholes)
    if not np.isfinite(high):
        return 100 * top / bottom, None, None, n
    return 100 * top / bottom, 100 * float(low), 100 * float(high), n


def _shared(by_task: Sequence[Sequence[Difference]]) -> tuple[Difference, ...]:
    """The fields that differ in any data set; where they differ otherwise in each, how many do."""
    names = dict.fromkeys(difference.field for fields in by_task for difference in fields)
    out = []
    for name in names:
        some = [difference for fields in by_task for difference in fields if difference.field == name]
        words = list(dict.fromkeys((d.here, d.there) for d in some))
        here, there = words[0]
        if len(words) > 1 or len(some) < len(by_task):
            sets = f" (in {len(some)} of {len(by_task)} data sets)" if len(some) < len(by_task) else ""
            here, there = _joined([w[0] for w in words]) + sets, _joined([w[1] for w in words])
        out.append(Difference(name, here, there, some[0].where, any(d.known for d in some)))
    return tuple(out)


def _joined(words: Sequence[str]) -> str:
    unique = list(dict.fromkeys(words))
    return "; ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
