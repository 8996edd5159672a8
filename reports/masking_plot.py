"""Curves with intervals: the score over the number of masked heads, from the top, from the bottom, at random."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.head_plots import CUT_STYLE
from reports.style import PAGE_WIDTH, figure_settings

Record = Mapping[str, Any]


def masking_figure(record: Record) -> Figure:
    """A panel per curve: means as lines, intervals as bands, the unmasked score dashed."""
    curves = record["curves"]
    columns = min(len(curves), 4)
    rows = math.ceil(len(curves) / columns)
    with figure_settings():
        width = min(PAGE_WIDTH, 1.0 + 2.0 * columns)
        figure = Figure(figsize=(width, 1.7 * rows + 0.35), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        handles: dict[str, Any] = {}
        for place, (axis, curve) in enumerate(zip(grid, curves, strict=False)):
            _panel(axis, curve, handles)
            preset = "" if curve["preset"] == "normalized" else f" ({curve['preset']})"
            scores = "" if curve["scores"] == "run" else f"\n{curve['scores']}"
            axis.set_title(f"{curve['task']}{preset}{scores}")
            if place + columns >= len(curves):
                axis.set_xlabel(f"Heads masked (of {curve['num_players']})")
            if place % columns == 0:
                axis.set_ylabel("Score (%)")
        for axis in grid[len(curves) :]:
            axis.remove()
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False, ncols=len(handles))
    return figure


def _panel(axis: Axes, curve: Record, handles: dict[str, Any]) -> None:
    full = curve["full"]["score"]
    handles.setdefault("no head masked", axis.axhline(full, color="black", linestyle=(0, (4, 2)), linewidth=0.9))
    for cut, style in CUT_STYLE.items():
        points = sorted((p for p in curve["points"] if p["cut"] == cut), key=lambda p: p["heads"])
        if not points:
            continue
        heads = [point["heads"] for point in points]
        marker = style["marker"] if len(points) <= 20 else None
        (line,) = axis.plot(heads, [point["score"] for point in points], color=style["color"], marker=marker)
        low = [point.get("low", point["score"]) for point in points]
        high = [point.get("high", point["score"]) for point in points]
        axis.fill_between(heads, low, high, color=style["color"], alpha=0.15, linewidth=0)
        handles.setdefault(f"{cut} heads", line)
    axis.set_ylim(-4, 105)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
