"""Head-masking curves and the transfer matrix in a run's report: what the records say, and nothing without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports import ReportError, write_report
from reports.head_experiments import averages_table, masking_table, transfer_matrix, transfer_table
from reports.masking_plot import masking_figure


def point(score: float) -> dict[str, float]:
    return {"score": score, "low": score - 5, "high": score + 5}


def masking(preset: str = "normalized") -> dict[str, Any]:
    """SYNTHETIC: made-up curves over 0 to 4 heads."""
    heights = {"top": (90, 20, 10, 5, 0), "bottom": (90, 85, 80, 70, 0), "random": (90, 60, 40, 20, 0)}
    points = [
        {"cut": cut, "heads": k, "masked": k, **point(score)}
        for cut, line in heights.items()
        for k, score in enumerate(line)
    ]
    areas = {cut: point(float(np.mean(line))) for cut, line in heights.items()}
    curve = {"task": "vt", "scores": "run", "preset": preset, "num_players": 4, "full": point(90), "points": points}
    return {"curves": [{**curve, "areas": areas, "separation": point(40)}]}


def transfer() -> dict[str, Any]:
    """SYNTHETIC: own scores 70 and 80, the other's 60 and 50."""
    scores = {("a", "a"): 70, ("b", "a"): 60, ("a", "b"): 50, ("b", "b"): 80}
    names = ("own", "transferred", "transferred - own", "uniform", "full")
    return {
        "kv_budget": 64,
        "sources": ["a", "b"],
        "targets": ["a", "b"],
        "cells": [{"source": s, "target": t, **point(score)} for (s, t), score in scores.items()],
        "baselines": [
            {"name": n, "target": t, **point(score)} for n, score in (("uniform", 45), ("full", 95)) for t in "ab"
        ],
        "averages": {name: point(score) for name, score in zip(names, (75, 55, -20, 45, 95), strict=True)},
    }


def test_tables_hold_the_records() -> None:
    row = masking_table(masking()).rows[0]
    assert [cell.text for cell in row] == ["vt", "run", "0 to 4 of 4", "90.0", "25.0", "65.0", "42.0", "+40.0"]
    assert row[-1].detail == "[+35.0, +45.0]"
    assert masking_table(masking("official")).rows[0][1].text == "run (official)"
    table = transfer_table(transfer())
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a", "70.0", "50.0"],
        ["b", "60.0", "80.0"],
        ["uniform budgets (SnapKV)", "45.0", "45.0"],
        ["full cache", "95.0", "95.0"],
    ]
    assert table.rows[0][1].bold and table.rows[1][2].bold and not table.rows[0][2].bold
    assert [row[1].text for row in averages_table(transfer()).rows] == [
        "75.0",
        "55.0",
        "\N{MINUS SIGN}20.0",
        "45.0",
        "95.0",
    ]
    assert transfer_matrix(transfer())["cells"] == [[70, 50], [60, 80], [45, 45], [95, 95]]


def test_curves_show_means_bands_and_the_unmasked_score() -> None:
    (axis,) = masking_figure(masking()).axes
    drawn = [line.get_ydata() for line in axis.lines]
    assert [list(np.asarray(line)) for line in drawn] == [
        [90, 90],
        [90, 20, 10, 5, 0],
        [90, 85, 80, 70, 0],
        [90, 60, 40, 20, 0],
    ]
    assert len(axis.collections) == 3
    low, high = (
        axis.collections[0].get_paths()[0].vertices[:, 1].min(),
        axis.collections[0].get_paths()[0].vertices[:, 1].max(),
    )
    assert (low, high) == (-5, 95)


def test_a_report_has_the_sections_only_where_the_run_has_the_records(run_dir: Path) -> None:
    text = (write_report(run_dir) / "report.md").read_text()
    assert "Masking heads" not in text and "Head scores of another task" not in text
    (run_dir / "masking.json").write_text(json.dumps(masking()))
    (run_dir / "transfer.json").write_text(json.dumps(transfer()))
    folder = write_report(run_dir)
    text = (folder / "report.md").read_text()
    assert text.index("## Masking heads") < text.index("## Head scores of another task")
    assert text.index("## Head scores of another task") < text.index("## Memory and latency")
    for name in ("masking_curves.png", "masking_curves.svg", "transfer_matrix.png", "tables/masking.tex"):
        assert (folder / name).stat().st_size > 0
    assert "(masking_curves.png)" in text and "(transfer_matrix.png)" in text


BROKEN: list[tuple[str, Any, str]] = [
    ("masking", {"curves": []}, "curves must be a list of at least one"),
    ("masking", {"curves": [{"task": "vt"}]}, "needs task, scores and preset"),
    ("masking", {"curves": [{**masking()["curves"][0], "points": 3}]}, "a list of points"),
    ("masking", {"curves": [{**masking()["curves"][0], "full": None}]}, "expected an object with a score"),
    ("masking", {"curves": [{**masking()["curves"][0], "points": [{"score": "x"}]}]}, "score must be a finite number"),
    ("masking", {"curves": [{**masking()["curves"][0], "points": [{"score": 1}]}]}, "a point needs a cut"),
    ("transfer", {}, "sources must be a list"),
    ("transfer", {**transfer(), "averages": {"own": point(1)}}, "averages must be empty or hold"),
    ("transfer", {**transfer(), "cells": [{"source": "a", "target": "a"}]}, "score must be a finite number"),
]


@pytest.mark.parametrize(("name", "record", "message"), BROKEN)
def test_a_broken_record_is_said(run_dir: Path, name: str, record: Any, message: str) -> None:
    (run_dir / f"{name}.json").write_text(json.dumps(record))
    with pytest.raises(ReportError, match=message):
        write_report(run_dir)
