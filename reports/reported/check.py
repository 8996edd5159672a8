"""Checks of the published table: row means against printed averages, repeated values, ranges. Exceptions are data.

A printed average is compared with the mean of the values beside it: the same source, note, model, method and budget.
Both are rounded, so they may differ by the last printed digit. `exceptions.toml` lists what is known to be off in the
sources themselves; an exception that does not hold, or is not needed, is a failure too.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any

from reports.reported.table import AVERAGE, PublishedValue, published_values

Row = PublishedValue
_Line = tuple[str, ...]  # paper, model, benchmark, method, budget
LINE = ("paper", "model", "benchmark", "method", "budget")
KINDS = ("average", "row_mean", "repeated", "fraction")
HALF_HUNDREDTH = 0.005  # what our own means in exceptions.toml are rounded to


@dataclass(frozen=True)
class Checked:
    """What was compared, and what is off: one sentence each, with the row."""

    values: int
    averages: int
    row_means: int
    exceptions: int
    problems: tuple[str, ...]


@cache
def exceptions() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    text = files("reports.reported").joinpath("exceptions.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def check_reported(
    rows: Sequence[Row] | None = None, known: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> Checked:
    """All checks over the table, or over `rows` with the exceptions `known`."""
    rows = published_values() if rows is None else rows
    known = exceptions() if known is None else known
    lines: dict[_Line, dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        lines.setdefault(_line(row), {}).setdefault((row.source, row.note), []).append(row)
    averages = list(_averages(lines))
    row_means = known.get("row_mean", ())
    problems = [
        *(f"exceptions.toml: unknown kind {kind!r}" for kind in known if kind not in KINDS),
        *_off_averages(averages, known.get("average", ())),
        *_off_row_means(lines, row_means),
        *_repeated(rows, known.get("repeated", ())),
        *_out_of_range(rows, known.get("fraction", ())),
    ]
    counted = sum(len(known.get(kind, ())) for kind in KINDS if kind != "row_mean")
    return Checked(len(rows), len(averages), len(row_means), counted, tuple(problems))


def _line(row: Row) -> _Line:
    return (row.paper, row.model, row.benchmark, row.method, row.budget)


def _entry_line(entry: Mapping[str, Any]) -> _Line:
    return tuple(entry[name] for name in LINE)


def _words(line: _Line) -> str:
    return ", ".join(line)


def _averages(lines: Mapping[_Line, Mapping[Any, Sequence[Row]]]) -> Iterator[tuple[_Line, float, float, float]]:
    """(line, printed average, mean of its values, what rounding may add) of every printed average with values."""
    for line, by_note in lines.items():
        for members in by_note.values():
            values = [row.value for row in members if row.dataset != AVERAGE]
            printed = [row.value for row in members if row.dataset == AVERAGE]
            if not values:
                continue  # a source that prints averages alone
            for average in printed:
                yield line, average, fmean(values), _last_digit([*values, average])


def _last_digit(values: Sequence[float]) -> float:
    """The unit of the last printed digit: a mean of rounded values differs from a rounded mean by no more."""
    return 0.1 if all(round(value, 1) == value for value in values) else 0.01


def _off_averages(
    averages: Sequence[tuple[_Line, float, float, float]], known: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    excused = {(_entry_line(entry), entry["printed"]): entry for entry in known}
    used = set()
    for line, printed, mean, unit in averages:
        off = abs(printed - mean) > unit + 1e-9
        entry = excused.get((line, printed))
        if entry is None:
            if off:
                yield f"{_words(line)}: the printed average {printed:g} is not the mean of its values, {mean:.2f}"
            continue
        used.add((line, printed))
        if not off:
            yield f"{_words(line)}: listed as an exception, but the printed average {printed:g} is the mean {mean:.2f}"
        elif abs(entry["mean"] - mean) > HALF_HUNDREDTH + 1e-9:
            yield f"{_words(line)}: the exception states the mean {entry['mean']:g}, it is {mean:.2f}"
    for (line, printed), _ in excused.items():
        if (line, printed) not in used:
            yield f"{_words(line)}: listed as an exception with the average {printed:g}, which the table does not have"


def _off_row_means(
    lines: Mapping[_Line, Mapping[Any, Sequence[Row]]], known: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    for entry in known:
        line = _entry_line(entry)
        values = [row.value for members in lines.get(line, {}).values() for row in members if row.dataset != AVERAGE]
        if not values:
            yield f"{_words(line)}: a row mean of {entry['mean']:g} is stated, but the table has no such row"
        elif len(values) != entry["datasets"]:
            yield f"{_words(line)}: {len(values)} data sets, expected {entry['datasets']}"
        elif abs(fmean(values) - entry["mean"]) > HALF_HUNDREDTH + 1e-9:
            yield f"{_words(line)}: the row's mean is {fmean(values):.2f}, expected {entry['mean']:g}"


def _repeated(rows: Sequence[Row], known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The same value of the same source twice; and one cell with several values, unless it is listed why."""
    exact = Counter((*_line(row), row.dataset, row.source, row.note) for row in rows)
    for place, count in exact.items():
        if count > 1:
            yield f"{_words(place[:6])}: {count} values of one source and note"
    cells: dict[tuple[_Line, str], set[tuple[str, str]]] = {}
    for row in rows:
        cells.setdefault((_line(row), row.dataset), set()).add((row.source, row.note))
    excused = {(_entry_line(entry), entry.get("dataset")) for entry in known}
    used = set()
    for (line, dataset), about in cells.items():
        if len(about) == 1:
            continue
        names = {(line, dataset), (line, None)} & excused
        used |= names
        if not names:
            yield f"{_words((*line, dataset))}: values of {len(about)} sources or notes, and no exception says why"
    for line, listed in sorted(excused - used, key=str):
        yield f"{_words(line)}: listed as repeated" + (f" in {listed}" if listed else "") + ", but it is not"


def _out_of_range(rows: Sequence[Row], known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Percentages are 0 to 100, listed fractions 0 to 1 and above 0."""
    fractions = {(_entry_line(entry), entry["dataset"]) for entry in known}
    there = {(_line(row), row.dataset) for row in rows}
    for row in rows:
        top = 1 if (_line(row), row.dataset) in fractions else 100
        if not 0 <= row.value <= top:
            yield f"{_words((*_line(row), row.dataset))}: {row.value:g} is outside 0..{top}"
    for line, dataset in sorted(fractions - there):
        yield f"{_words((*line, dataset))}: listed as a fraction, but the table has no such value"
