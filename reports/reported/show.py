"""Published values as tables for a screen: per paper, model and benchmark, data sets down and methods across.

Below each table stand the sources and notes of its columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.kv_budget import budget_text, is_budget
from reports.reported.names import kv_budget_of
from reports.reported.sources import ANY_METHOD, source_of
from reports.reported.table import FULL_BUDGET, PublishedValue
from reports.table import MISSING, Entry, Table

ACROSS = 7  # methods side by side: what a terminal of 100 columns holds
_Column = tuple[str, str, str, str]  # method, budget, source, note


def reported_tables(rows: Sequence[PublishedValue]) -> Iterator[Table]:
    """One table for at most ACROSS methods and budgets of a paper, model and benchmark, in the table's order."""
    groups: dict[tuple[str, str, str], list[PublishedValue]] = {}
    for row in rows:
        groups.setdefault((row.paper, row.model, row.benchmark), []).append(row)
    for (paper, model, benchmark), members in groups.items():
        columns = list(dict.fromkeys(_column(row) for row in members))
        for start in range(0, len(columns), ACROSS):
            shown = columns[start : start + ACROSS]
            yield _table(f"{paper}: {model}, {benchmark}", shown, [row for row in members if _column(row) in shown])


def _column(row: PublishedValue) -> _Column:
    return row.method, row.budget, row.source, row.note


def _table(title: str, columns: list[_Column], rows: list[PublishedValue]) -> Table:
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    values = {(row.dataset, _column(row)): row.value for row in rows}
    marks = _marks(columns)
    heads = [f"{method} {_budget(budget)}{marks.get((source, note), '')}" for method, budget, source, note in columns]
    body = [(Entry(dataset), *(_entry(values.get((dataset, column))) for column in columns)) for dataset in datasets]
    about = dict.fromkeys((source, note) for _, _, source, note in columns)
    notes = [f"{marks.get(pair, '').strip()} {pair[0]}. {pair[1]}".strip().rstrip(".") + "." for pair in about]
    return Table("reported", title, ("Data set", *heads), tuple(body), tuple(notes))


def _marks(columns: list[_Column]) -> dict[tuple[str, str], str]:
    """A letter for each source and note where a table has several."""
    pairs = list(dict.fromkeys((source, note) for _, _, source, note in columns))
    return {pair: f" ({chr(ord('a') + place)})" for place, pair in enumerate(pairs)} if len(pairs) > 1 else {}


def _budget(published: str) -> str:
    """The source's word, and what it is here where that is another."""
    ours = kv_budget_of(published)
    if published == FULL_BUDGET or str(ours) == published or not is_budget(ours):
        return "" if published == FULL_BUDGET else published
    return f"{published} (keeps {budget_text(ours)})" if ours is not None else f"{published} (full)"


def _entry(value: float | None) -> Entry:
    return Entry() if value is None else Entry(f"{value:g}" if value < 1 else f"{value:.2f}")


def protocol_tables(rows: Sequence[PublishedValue]) -> Iterator[Table]:
    """What decides the numbers of these rows: one table per source, a row per field and per parameter of a method."""
    sources = dict.fromkeys((source, row.benchmark) for row in rows if (source := source_of(row)) is not None)
    shown = {ANY_METHOD, *(row.method for row in rows)}
    for source, benchmark in sources:
        facts = dict(source.facts)
        for method, parameters in source.methods.items():
            words = "any method" if method == ANY_METHOD else method
            facts |= {f"{words}: {name}": fact for name, fact in parameters.items() if method in shown}
        about = f" ({source.note})" if source.note else ""
        yield Table(
            name="protocol",
            title=f"{source.paper}, {benchmark}{about}: protocol",
            columns=("Field", "Value", "Stated in"),
            rows=tuple(
                (Entry(name), Entry(_value(fact.value)), Entry(fact.where or MISSING)) for name, fact in facts.items()
            ),
            left=3,
        )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{model}: {_value(item)}" for model, item in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
