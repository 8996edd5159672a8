"""The overview shows every method's averages as the metrics have them, best first, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.container import ErrorbarContainer

from reports import aggregate, plots
from reports.labels import Labels, is_full
from reports.overview import overview_table
from reports.overview_plot import overview_figure

Record = Callable[..., dict[str, Any]]


def labels(metrics: dict[str, Any]) -> Labels:
    return Labels(metrics["cells"], {"full": "Full"})


@pytest.fixture
def metrics(record: Record) -> dict[str, Any]:
    """Two tasks; `good` beats `bad` at both budgets, `packed` keeps every position, `fussy` cannot do the small one."""
    rows = []
    for task in ("vt", "cwe"):
        rows += [record("full", None, 90.0, task=task), record("packed", None, 85.0, task=task)]
        rows += [record("bad", budget, 10.0, task=task) for budget in (64, 128)]
        rows += [record("good", budget, 50.0 + budget / 8, task=task) for budget in (64, 128)]
        rows += [record("fussy", 128, 70.0, task=task), record("fussy", 64, None, task=task, infeasible="too small")]
    return aggregate(rows)


def test_the_full_cache_comes_first_and_no_score_decides_the_rest(metrics: dict[str, Any]) -> None:
    table = overview_table(metrics, labels(metrics))
    assert table is not None and [row[0].text for row in table.rows] == ["Full", "bad", "fussy", "good", "packed"]


def test_cells_are_the_averages(metrics: dict[str, Any]) -> None:
    table = overview_table(metrics, labels(metrics))
    assert table is not None and table.columns == ("Method", "all", "64", "128")
    assert table.heads == (("", 1), ("ruler", 3))
    texts = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert texts == {
        "Full": ["90.0", "", ""],
        "packed": ["85.0", "", ""],
        "fussy": ["", "infeasible", "70.0"],
        "good": ["", "58.0", "66.0"],
        "bad": ["", "10.0", "10.0"],
    }


def test_the_best_of_each_budget_is_bold_and_whole_caches_do_not_compete(metrics: dict[str, Any]) -> None:
    table = overview_table(metrics, labels(metrics), "ruler")
    assert table is not None and table.columns == ("Method", "all", "64", "128")
    assert {(row[0].text, place) for row in table.rows for place, cell in enumerate(row) if cell.bold} == {
        ("good", 2),
        ("fussy", 3),
    }
    assert {row[0].text for row in table.rows if any(cell.underline for cell in row)} == {"good"}, "of three at 128"


def test_each_dot_is_an_average_on_its_methods_line(metrics: dict[str, Any]) -> None:
    figure = overview_figure(metrics, labels(metrics))
    assert figure is not None
    (axis,) = figure.axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    dots = set()
    for bar in axis.containers:
        assert isinstance(bar, ErrorbarContainer)
        ((x, y),) = bar.lines[0].get_xydata()
        dots.add((names[round(y)], round(float(x), 1)))
    assert dots == {("packed", 85.0), ("good", 58.0), ("good", 66.0), ("bad", 10.0), ("fussy", 70.0)}


def test_of_many_methods_the_best_and_the_named_ones_have_colours(record: Record) -> None:
    rows = [record("full", None, 90.0, task=task) for task in ("vt", "cwe")]
    for place, name in enumerate(["snapkv", "cokv", *(f"m{i}" for i in range(12))]):
        rows += [record(name, 64, float(place), task=task) for task in ("vt", "cwe")]
    metrics = aggregate(rows)
    drawn = [v.method for v in plots.shown(metrics, labels(metrics)) if not is_full(v)]
    assert set(drawn) == {"snapkv", "cokv", *(f"m{i}" for i in range(6, 12))}
    figure = plots.score_figure(metrics, labels(metrics), "ruler")
    assert figure is not None and plots.OTHERS in [text.get_text() for text in figure.legends[0].get_texts()]
