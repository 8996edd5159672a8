"""Figures show what the metrics say: points, intervals, a line for the full cache, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from full_disk import full_disk
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from reports import aggregate, head_plots, plots, style
from reports.labels import HIGHLIGHT, Labels, is_full


def panel(figure: Figure | None, title: str) -> Axes:
    assert figure is not None
    return next(axis for axis in figure.axes if axis.get_title() == title)


def score_figure(metrics: dict[str, Any]) -> Figure | None:
    return plots.score_figure(metrics, Labels(metrics["cells"]), "ruler")


def lines(axis: Axes) -> list[ErrorbarContainer]:
    return [item for item in axis.containers if isinstance(item, ErrorbarContainer)]


def test_there_is_a_panel_per_task_and_one_for_the_average(records: list[dict[str, Any]]) -> None:
    figure = score_figure(aggregate(records))
    assert figure is not None
    assert [axis.get_title() for axis in figure.axes] == [*sorted({r["task"] for r in records}), "Average"]


def test_points_and_bars_are_the_means_and_intervals(records: list[dict[str, Any]]) -> None:
    metrics = aggregate(records)
    axis = panel(score_figure(metrics), "vt")
    cokv = next(item for item in lines(axis) if to_rgb(item[0].get_color()) == to_rgb(HIGHLIGHT))
    rows = sorted(
        (row for row in metrics["cells"] if row["task"] == "vt" and row["method"] == "cokv"),
        key=lambda row: row["kv_budget"],
    )
    np.testing.assert_allclose(np.asarray(cokv[0].get_ydata(), dtype=float), [row["mean"] for row in rows])
    bars = np.array([segment[:, 1].astype(float) for segment in cokv[2][0].get_segments()])
    np.testing.assert_allclose(bars, [[row["low"], row["high"]] for row in rows])


def test_the_full_cache_is_a_line_at_its_mean(records: list[dict[str, Any]]) -> None:
    metrics = aggregate(records)
    axis = panel(score_figure(metrics), "vt")
    full = next(row["mean"] for row in metrics["cells"] if row["task"] == "vt" and row["method"] == "full")
    assert any(np.allclose(line.get_ydata(), full) and len(line.get_ydata()) == 2 for line in axis.lines)


def test_a_method_that_keeps_all_positions_is_a_line_of_its_own(records: list[dict[str, Any]]) -> None:
    fewer_bits = [{**r, "method": "kivi4", "score": 40.0} for r in records if r["method"] == "full"]
    axis = panel(score_figure(aggregate([*records, *fewer_bits])), "vt")
    assert any(np.allclose(line.get_ydata(), 40.0) and line.get_linestyle() == ":" for line in axis.lines)


def test_an_infeasible_budget_has_no_point(records: list[dict[str, Any]]) -> None:
    axis = panel(score_figure(aggregate(records)), "vt")
    assert sorted(len(item[0].get_ydata()) for item in lines(axis)) == [1, 3, 3, 3, 3, 3]


def test_methods_never_look_the_same(record: Callable[..., dict[str, Any]]) -> None:
    rows = [record(f"method{number}", score=50.0) for number in range(24)] + [record("cokv"), record("full", None)]
    labels = Labels(rows)
    looks = [tuple(sorted(labels.style(v).items())) for v in labels.variants if not is_full(v)]
    assert len(set(looks)) == 25


def test_a_run_of_the_full_cache_alone_has_no_figure(record: Callable[..., dict[str, Any]]) -> None:
    assert score_figure(aggregate([record("full", None, 90.0)])) is None


def test_one_task_one_budget_one_sample_can_be_drawn(record: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    figure = score_figure(aggregate([record("full", None, 90.0), record(), record("cokv")]))
    assert figure is not None and [axis.get_title() for axis in figure.axes] == ["niah_single_1"]
    assert all(path.stat().st_size > 1000 for path in style.save(figure, tmp_path, "one"))


def test_small_differences_are_not_blown_up(record: Callable[..., dict[str, Any]]) -> None:
    rows = [record(method, score=50.0 + 0.1 * i, sample=i) for method in ("snapkv", "cokv") for i in range(4)]
    low, high = panel(score_figure(aggregate(rows)), "niah_single_1").get_ylim()
    assert high - low >= 20


def test_the_heatmap_shows_the_mean_of_the_runs(stability: dict[str, Any]) -> None:
    axis = panel(head_plots.heads_figure(stability), "niah_single_1")
    expected = np.mean(stability["tasks"]["niah_single_1"]["runs"], axis=0)
    np.testing.assert_allclose(axis.images[0].get_array(), expected)
    assert len(axis.texts) == 16
    assert (axis.get_xlabel(), len(axis.get_xticks()), len(axis.get_yticks())) == ("KV head", 4, 4)


@pytest.mark.parametrize("shape", [(32, 8), (2, 1), (28, 32)])
def test_models_of_other_sizes_have_a_heatmap(
    stability: dict[str, Any], shape: tuple[int, int], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).random(shape).tolist()
    stability["tasks"] = {"vt": {"runs": [values, values]}}
    figure = head_plots.heads_figure(stability)
    assert figure is not None
    style.save(figure, tmp_path, "heads")


def test_head_removal_is_drawn_as_curves_or_as_bars(stability: dict[str, Any]) -> None:
    axis = panel(head_plots.removal_figure(stability), "niah_single_1")
    assert sorted(tuple(item[0].get_xdata()) for item in lines(axis)) == [(2, 4, 6, 8)] * 3
    for entry in stability["tasks"].values():
        entry["head_removal"] = [row for row in entry["head_removal"] if row["heads"] == 4]
    bars = head_plots.removal_figure(stability)
    assert bars is not None
    assert sorted({round(patch.get_height(), 1) for patch in bars.axes[0].patches}) == [1.5, 60.0, 92.4]


def test_nothing_to_draw_is_no_figure(stability: dict[str, Any]) -> None:
    stability["tasks"] = {"vt": {}}
    assert head_plots.heads_figure(stability) is None and head_plots.removal_figure(stability) is None


def test_drawing_leaves_matplotlib_as_it_was(records: list[dict[str, Any]], tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figure = score_figure(aggregate(records))
    assert figure is not None
    style.save(figure, tmp_path, "scores")
    assert dict(mpl.rcParams) == before


def test_a_users_matplotlibrc_changes_no_figure(records: list[dict[str, Any]], tmp_path: Path) -> None:
    matplotlibrc = {
        "text.usetex": True,
        "font.size": 30,
        "savefig.transparent": True,
        "axes.prop_cycle": "cycler(color='r')",
    }

    def files(folder: str) -> list[bytes]:
        figure = score_figure(aggregate(records))
        assert figure is not None
        return [path.read_bytes() for path in style.save(figure, tmp_path / folder, "scores")]

    expected = files("plain")
    with mpl.rc_context(matplotlibrc):  # text.usetex fails where there is no LaTeX, as on most machines
        assert files("with_matplotlibrc") == expected


def test_a_full_disk_while_a_figure_is_saved_is_an_os_error(records: list[dict[str, Any]], tmp_path: Path) -> None:
    figure = score_figure(aggregate(records))
    assert figure is not None
    with full_disk("*.pdf"), pytest.raises(OSError, match="No space left"):
        style.save(figure, tmp_path, "scores")
    assert (tmp_path / "scores.png").is_file()
