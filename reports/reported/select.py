"""Rows of the published table by paper, model, method, budget, data set and benchmark.

Names match without regard to case and punctuation, methods and budgets in the source's words or in this project's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports.errors import ReportError
from reports.kv_budget import percent_of
from reports.reported.names import key, kv_budget_of, method_words, model_name, models, nearest
from reports.reported.table import PublishedValue, published_values

Row = PublishedValue


FILTERS = ("paper", "model", "method", "budget", "dataset", "benchmark")


def select(filters: Mapping[str, str | None], rows: Sequence[Row] | None = None) -> list[Row]:
    """The rows that all given values match, in the table's order. filters: of FILTERS; None for any.

    Raises ReportError for a value that matches no row, naming the closest ones, and for values that match none
    together, naming what there is for the others.
    """
    rows = published_values() if rows is None else rows
    asked = {name: value for name in FILTERS if (value := filters.get(name)) is not None}
    matching = {name: _matching(name, value, rows) for name, value in asked.items()}
    for name, value in asked.items():
        if not matching[name]:
            known = list(dict.fromkeys(word for row in rows for word in _spellings(name, getattr(row, name))))
            raise ReportError(f"--{name} {value}: nothing published has it; {nearest(value, known)}")
    chosen = [row for row in rows if _all(row, matching)]
    if not chosen:
        raise ReportError(f"nothing published has {_words(asked)} together; {_alternatives(asked, matching, rows)}")
    return chosen


def _all(row: Row, matching: Mapping[str, set[str]]) -> bool:
    return all(getattr(row, name) in words for name, words in matching.items())


def _matching(name: str, value: str, rows: Sequence[Row]) -> set[str]:
    """The words of this column that a value means; for papers and benchmarks those that begin with it too, for models
    those that contain it.
    """
    words = {getattr(row, name) for row in rows}
    value = model_name(value)[0] if name == "model" else value
    exact = {word for word in words if key(value) and key(value) in map(key, _spellings(name, word))}
    if name == "budget":
        return exact | {word for word in words if _same_budget(value, word)}
    if name in ("paper", "benchmark"):  # AdaKV means AdaKV (GQA) too, RULER all its lengths
        return exact | {word for word in words if word.lower().startswith((f"{value.lower()} (", f"{value.lower()}-"))}
    if name == "model" and key(value):
        return exact | {
            word for word in words if any(key(value) in key(spelling) for spelling in _spellings(name, word))
        }
    return exact


def _spellings(name: str, word: str) -> tuple[str, ...]:
    if name == "method":
        return method_words(word)
    if name == "model":
        return (word, *models()[word].names) if word in models() else (word,)
    return (word,)


def _same_budget(value: str, word: str) -> bool:
    ours = kv_budget_of(word)
    percent = percent_of(value.replace(" ", ""))
    return str(ours) == value or (percent is not None and percent == percent_of(ours))


def _words(asked: Mapping[str, str]) -> str:
    return ", ".join(f"--{name} {value}" for name, value in asked.items())


def _alternatives(asked: dict[str, str], matching: Mapping[str, set[str]], rows: Sequence[Row]) -> str:
    """What one of the values could be, the others kept."""
    for name in reversed(asked):
        others = {other: words for other, words in matching.items() if other != name}
        there = list(dict.fromkeys(getattr(row, name) for row in rows if _all(row, others)))
        if there:
            return f"with the others, {name} can be {', '.join(there[:40])}"
    return "leave one of them out"
