"""The published values, as `reported.csv` holds them: one row per number, each with its source.

Does not know: whether a source is right. What is known to be doubtful stands in a row's note.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

FULL_BUDGET = "full"
AVERAGE = "average"  # the data set of a printed average
RATIO_TO_FULL = "average_ratio_to_full"  # of a printed average over the full cache's, a fraction


@dataclass(frozen=True)
class PublishedValue:
    """One number of one source.

    method and budget are the source's own words: `SnapKV`, `128`, `full`, `ratio 0.80`. value: in percent, unless the
    note says otherwise. dataset: `average` is the source's printed average, not ours.
    """

    paper: str
    model: str
    benchmark: str
    dataset: str
    method: str
    budget: str
    value: float
    source: str
    note: str


@cache
def published_values() -> tuple[PublishedValue, ...]:
    """Every row of the table, in its order."""
    text = files("reports.reported").joinpath("reported.csv").read_text(encoding="utf-8")
    return tuple(PublishedValue(value=float(row.pop("value")), **row) for row in csv.DictReader(text.splitlines()))
