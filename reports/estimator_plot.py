"""The figure of estimators: error, order and agreement of two runs against evaluations, a column each, a row per game.

Reads the rows of benchmarks/estimators.py and benchmarks/exact_game.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from reports.errors import ReportError
from reports.style import PAGE_WIDTH, figure_settings

Row = Mapping[str, Any]
PANELS = (
    ("error_own_target", "Mean abs. error x players\n(to what it estimates)"),
    ("spearman", "Spearman with the\nexact Shapley value"),
    ("agreement", "Correlation of\ntwo runs"),
)
HIDDEN = ("SSV, official",)  # the sum over sizes of what SSV is the mean of: the same curve on another scale
STYLES: dict[str, dict[str, Any]] = {
    "SSV": {"color": "#0072B2", "marker": "o"},
    "SSV, nested sizes": {"color": "#0072B2", "marker": "x", "linestyle": ":"},
    "SSV, pilot and Neyman": {"color": "#56B4E9", "marker": "s"},
    "SSV, balanced": {"color": "#009E73", "marker": "^"},
    "SSV, adjusted": {"color": "#D55E00", "marker": "D"},
    "all sizes": {"color": "#7F7F7F", "marker": "o", "linestyle": "--"},
    "all sizes, balanced": {"color": "#000000", "marker": "^", "linestyle": "--"},
    "permutations": {"color": "#CC79A7", "marker": "v", "linestyle": "-."},
    "permutations, antithetic": {"color": "#E69F00", "marker": "v", "linestyle": "-."},
    "leave one out": {"color": "#000000", "marker": "*", "linestyle": "none"},
}
OTHER = {"color": "#AAAAAA", "marker": "."}


def estimator_figure(rows: Sequence[Row]) -> Figure:
    """One row of panels per game, in the order of the rows."""
    shown = [row for row in rows if row["estimator"] not in HIDDEN]
    games = list(dict.fromkeys(row["game"] for row in shown))
    if not games:
        raise ReportError("no rows of estimators, expected those of benchmarks/estimators.py or exact_game.py")
    panels = [panel for panel in PANELS if any(panel[0] in row for row in shown)]  # of large games no error is known
    with figure_settings():
        figure = Figure(figsize=(PAGE_WIDTH, 1.9 * len(games) + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(games), len(panels), squeeze=False)
        handles: dict[str, Any] = {}
        for line, game in zip(axes, games, strict=True):
            points = [row for row in shown if row["game"] == game]
            for axis, (key, label) in zip(line, panels, strict=True):
                _panel(axis, points, key, handles)
                axis.set_ylabel(label)
            line[0].set_title(game, loc="left", fontweight="bold")
        for axis in axes[-1]:
            axis.set_xlabel("Distinct coalitions evaluated")
        names = [name for name in (*STYLES, *handles) if name in handles]
        names = list(dict.fromkeys(names))
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="outside lower center",
            frameon=False,
            ncols=math.ceil(len(names) / 2),
            columnspacing=1.2,
        )
    return figure


def _panel(axis: Axes, rows: Sequence[Row], key: str, handles: dict[str, Any]) -> None:
    for name in dict.fromkeys(row["estimator"] for row in rows):
        points = sorted((row["evaluations"], row[key]) for row in rows if row["estimator"] == name and key in row)
        if key == "error_own_target":
            points = [point for point in points if point[1] > 0]  # no error: nothing to show on a logarithm
        if points:
            costs, values = zip(*points, strict=True)
            (handles[name],) = axis.plot(costs, values, **STYLES.get(name, OTHER))
    if not axis.lines:
        return
    axis.set_xscale("log", base=2)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    if key == "error_own_target":
        axis.set_yscale("log")
    else:
        axis.set_ylim(top=1.02)
