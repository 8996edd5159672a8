"""The needle grid: which cell a record falls in, and what is drawn of a run without needles."""

from __future__ import annotations

from typing import Any

import numpy as np

from reports.labels import Labels
from reports.needle_plot import needle_figure
from tests.reports.conftest import record

LENGTHS, DEPTHS = (1000, 4000, 16000), (0, 50, 100)


def needles(method: str, kv_budget: int | None, **more: Any) -> list[dict[str, Any]]:
    """Scores that say where they belong: depth, and a tenth of a point for each thousand tokens."""
    about = {"benchmark": "needle"} | more
    return [
        record(method, kv_budget, score=depth * 0.9 + length / 10_000, task=f"needle_{length:05d}")
        | {"groups": {"depth": str(depth)}, **about}
        for length in LENGTHS
        for depth in DEPTHS
    ]


def drawn(records: list[dict[str, Any]]) -> Any:
    return needle_figure(records, Labels(records, {"full": "Full", "snapkv": "SnapKV"}))


def test_a_panel_has_depths_down_and_lengths_across() -> None:
    figure = drawn([*needles("snapkv", 64), *needles("full", None)])
    full, snapkv = (axis for axis in figure.axes if axis.images and axis.get_title())
    assert full.get_title().startswith("Full: ") and snapkv.get_title().startswith("SnapKV at 64: ")
    expected = [[depth * 0.9 + length / 10_000 for length in LENGTHS] for depth in DEPTHS]
    np.testing.assert_allclose(snapkv.images[0].get_array(), expected)
    assert [tick.get_text() for tick in snapkv.get_xticklabels()] == ["1k", "4k", "16k"]
    assert [tick.get_text() for tick in snapkv.get_yticklabels()] == ["0 %", "50 %", "100 %"]


def test_what_no_record_has_stays_white() -> None:
    figure = drawn(needles("snapkv", 64)[:-1])
    values = figure.axes[0].images[0].get_array()
    assert (
        np.isnan(np.ma.filled(values, np.nan)[-1, -1]) and np.isfinite(values).sum() == len(LENGTHS) * len(DEPTHS) - 1
    )


def test_a_run_without_needles_has_no_such_picture() -> None:
    assert drawn([record("snapkv", 64), record("full", None)]) is None
    assert drawn(needles("snapkv", 64, score=None, infeasible="too small")) is None
