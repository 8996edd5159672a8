"""The bars on intervals and marks, by the simulation of benchmarks/interval_coverage.py with fewer draws."""

from __future__ import annotations

import json
from pathlib import Path

import interval_coverage as coverage
import pytest

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "coverage.json"


@pytest.mark.slow
def test_no_kind_of_interval_is_far_below_the_bar() -> None:
    """300 draws of a coverage of 0.95 have a standard deviation of 0.013; the least of hundreds may be three below."""
    for row in coverage.worst(coverage.coverage(300)):
        if row["samples"] >= 6:
            assert row["coverage"] >= 0.9, row


@pytest.mark.slow
def test_few_tables_without_a_difference_have_a_mark() -> None:
    marks = coverage.false_marks(30, samples=(3, 9))
    assert sum(row["marked"] for row in marks) / len(marks) <= coverage.MARKS_BAR


def test_the_committed_simulation_meets_the_bars() -> None:
    record = json.loads(RESULT.read_text())
    assert {row["kind"] for row in record["worst"]} == {"cell", "average", "difference", "average difference", "share"}
    for row in record["worst"]:
        assert row["samples"] < 6 or row["coverage"] >= coverage.BAR, row
    assert all(row["marked"] <= coverage.MARKS_BAR for row in record["tables"]), record["tables"]
