"""Which published values a run's cells may stand beside, and why others may not.

A cell stands beside a value of the same benchmark, data set, method and budget. Samples in this project's own wording,
and generated text, never do; official data does, whole or in part, and so does RULER data that its official generator
prepared. With the same model the difference is absolute; with another, both are taken relative to their own full cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean
from typing import Any

from reports.kv_budget import Budget, budget_order, budget_text, percent_of
from reports.protocol_difference import part
from reports.records import FULL
from reports.reported.names import is_comparable, kv_budget_of, methods, same_models
from reports.reported.table import AVERAGE, RATIO_TO_FULL, PublishedValue, published_values
from reports.rundir import Run

LONGBENCH = "LongBench"
RULER = "RULER"  # values whose length their source does not state
LIKELY_LENGTH = 4096  # of these: what the source's README uses
FEWEST_SETS = 13  # of a row whose source prints no average, for its mean to stand for one
Key = tuple[str, str, str, Any]  # benchmark, data set, our method, budget


@dataclass(frozen=True)
class Row:
    """A published line: its average, printed or the mean of its values, and the data sets that this is over."""

    average: PublishedValue
    datasets: tuple[str, ...]
    printed: bool


def budget_key(kv_budget: Budget | str) -> Any:
    """Equal for budgets that are the same: 20% and 20.0%."""
    percent = percent_of(kv_budget)
    return ("share", percent) if percent is not None else kv_budget


@cache
def _index(paper: str | None) -> Mapping[Key, tuple[PublishedValue, ...]]:
    index: dict[Key, list[PublishedValue]] = {}
    for row in of_paper(paper):
        if not is_comparable(row.budget):
            continue
        for ours in methods()[row.method].ours if row.method in methods() else ():
            index.setdefault((row.benchmark, row.dataset, ours, budget_key(kv_budget_of(row.budget))), []).append(row)
    return {key: tuple(rows) for key, rows in index.items()}


def of_paper(paper: str | None) -> Sequence[PublishedValue]:
    """All values, or those of one paper as `cokv reported --paper` means it. Raises ReportError for an unknown one."""
    from reports.reported.select import select

    return select({"paper": paper})


def published_for(
    benchmarks: Iterable[str], dataset: str, method: str, kv_budget: Budget, paper: str | None
) -> list[PublishedValue]:
    """The values of this data set, method of ours and budget; not of ratios to the full cache."""
    index = _index(paper)
    return [row for name in benchmarks for row in index.get((name, dataset, method, budget_key(kv_budget)), ())]


def published_benchmarks(run: Run, benchmark: str) -> tuple[str, ...]:
    """Published names of a run's benchmark; none where its samples may not stand beside published scores."""
    if why_not(run, benchmark):
        return ()
    if benchmark == "longbench":
        return (LONGBENCH,)
    length = _ruler(run).get("length")
    return (f"RULER-{length}", *((RULER,) if length == LIKELY_LENGTH else ()))


def why_not(run: Run, benchmark: str) -> str:
    """Why nothing of this benchmark stands beside published scores, and what would; "" where it does."""
    if benchmark == "longbench_mini":
        return (
            "longbench_mini is text that this project generates in its own wording, so its scores are no LongBench "
            "scores. [longbench] on the official files would stand beside published ones."
        )
    if benchmark == "ruler":
        if _ruler(run).get("prepared") is True:
            return ""
        return (
            "RULER's samples are generated here, in this project's own wording: their scores stand beside no published "
            'ones. Data that the official generator prepared would: [ruler] data = "FOLDER", or kvpress\'s copy, '
            'data = "hub:simonjegou/ruler".'
        )
    if benchmark == "longbench":
        if part(run.spec, "data", "longbench", "templates").get("official") is True:
            return ""
        return (
            "LongBench was read in templates that are not the official files byte for byte, so its scores stand beside "
            "no published ones. The official dataset2prompt.json and dataset2maxlen.json would change that."
        )
    if benchmark == "needle":
        return (
            "the needle grid has this project's own wording around the needle, so its scores stand beside no published "
            "ones; papers print few of their grids' numbers."
        )
    return f"nothing is published of {benchmark}."


def _ruler(run: Run) -> Mapping[str, Any]:
    return part(run.spec, "benchmarks", "ruler")


def is_same_model(run: Run, published: PublishedValue) -> bool:
    model = part(run.spec, "about").get("model")
    return isinstance(model, str) and published.model in same_models(model)


def full_of(published: PublishedValue) -> PublishedValue | None:
    """The full cache of the same table: of the same source and note, else the only one of its paper."""
    candidates = _full_caches().get(_table_of(published), ())
    noted = [row for row in candidates if (row.source, row.note) == (published.source, published.note)]
    candidates = noted or candidates
    return candidates[0] if len(candidates) == 1 else None


@cache
def _full_caches() -> Mapping[tuple[str, ...], Sequence[PublishedValue]]:
    tables: dict[tuple[str, ...], list[PublishedValue]] = {}
    for row in published_values():
        if kv_budget_of(row.budget) is None:
            tables.setdefault(_table_of(row), []).append(row)
    return tables


def _table_of(row: PublishedValue) -> tuple[str, ...]:
    return row.paper, row.model, row.benchmark, row.dataset


@cache
def rows(paper: str | None) -> tuple[Row, ...]:
    """Every published line with an average, printed or not, of a method that this project has."""
    lines: dict[tuple[str, ...], list[PublishedValue]] = {}
    for row in of_paper(paper):
        if is_comparable(row.budget) and methods()[row.method].ours:
            line = (row.paper, row.model, row.benchmark, row.method, row.budget, row.source, row.note)
            lines.setdefault(line, []).append(row)
    return tuple(row for members in lines.values() for row in _averages(members))


def _averages(members: Sequence[PublishedValue]) -> Iterable[Row]:
    values = [row for row in members if row.dataset not in (AVERAGE, RATIO_TO_FULL)]
    for row in members:
        if row.dataset in (AVERAGE, RATIO_TO_FULL):
            sets = tuple(value.dataset for value in values) or _sets_of(row)
            if sets:
                yield Row(row, sets, printed=True)
    if values and not any(row.dataset == AVERAGE for row in members) and len(values) >= FEWEST_SETS:
        mean = replace(values[0], dataset=AVERAGE, value=fmean(row.value for row in values))
        yield Row(mean, tuple(row.dataset for row in values), printed=False)


RULER_TASKS = (
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"),
)


def _sets_of(average: PublishedValue) -> tuple[str, ...]:
    """What an average without values is over: RULER's thirteen tasks, or the data sets of its paper's other rows."""
    if average.benchmark.startswith("RULER"):
        return RULER_TASKS
    others = [
        row.dataset
        for row in published_values()
        if (row.paper, row.benchmark) == (average.paper, average.benchmark)
        and row.dataset not in (AVERAGE, RATIO_TO_FULL)
    ]
    return tuple(dict.fromkeys(others))


def published_budgets(benchmarks: Iterable[str], method: str, paper: str | None) -> str:
    """The budgets at which a method of ours is published, for a sentence; "" for none."""
    names = set(benchmarks)
    budgets = {key[3]: None for key in _index(paper) if key[0] in names and key[2] == method and method != FULL}
    own = [f"{b[1]:g}%" if isinstance(b, tuple) else b for b in budgets]
    return ", ".join(map(budget_text, sorted(own, key=budget_order)))
