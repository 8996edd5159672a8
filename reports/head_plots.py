"""Figures of the heads: their scores as heat maps, and what is left of a task's score when heads are removed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.side_tables import CUTS, head_scores, removal_rows
from reports.style import ERROR_BAR, PAGE_WIDTH, figure_settings, legend, panels

Row = Mapping[str, Any]
ACROSS = 9  # tasks whose names fit side by side
CUT_STYLE: dict[str, dict[str, Any]] = {
    "top": {"color": "#D55E00", "marker": "v"},
    "bottom": {"color": "#0072B2", "marker": "^"},
    "random": {"color": "#7F7F7F", "marker": "o"},
}


def heads_figure(stability: Row) -> Figure | None:
    """Head scores per task: layers x KV heads, each panel on its own scale: only the order inside a task speaks."""
    tasks = sorted(task for task, entry in stability["tasks"].items() if entry.get("runs"))
    if not tasks:
        return None
    layers, heads = head_scores(stability["tasks"][tasks[0]]).shape
    annotate = heads <= 8
    with figure_settings(grid=False):
        figure, axes = panels(len(tasks), 0.35 + (0.25 if layers <= 16 else 0.13) * layers, "KV head", "Layer")
        for axis, task in zip(axes, tasks, strict=True):
            values = head_scores(stability["tasks"][task])
            image = axis.imshow(values, cmap="cividis", aspect="auto")
            axis.set_title(task)
            axis.set_xticks(range(heads))
            axis.set_yticks(range(0, layers, 1 if layers <= 16 else 4))
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            bar = figure.colorbar(image, ax=axis, fraction=0.06, pad=0.03)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=5.5, length=1.5, width=0.4)
            bar.ax.yaxis.set_major_locator(MaxNLocator(4))
            if annotate:
                _annotate(axis, values)
    return figure


def _annotate(axis: Axes, values: Any) -> None:
    layers, heads = values.shape
    middle = (values.min() + values.max()) / 2
    size = 5.5 if heads <= 4 and layers <= 16 else 3.5
    digits = 2 if np.abs(values).max() < 10 else 0
    for (layer, head), value in np.ndenumerate(values):
        text = f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}").replace("0.", ".", 1)
        colour = "white" if value < middle else "black"
        axis.text(head, layer, text, ha="center", va="center", fontsize=size, color=colour)


def removal_figure(stability: Row) -> Figure | None:
    """Score after removing the top, bottom or random heads: curves over their number, bars where only one was run."""
    rows = [(task, row) for task, row in removal_rows(stability) if row.get("score") is not None]
    if not rows:
        return None
    by_task: dict[str, list[Row]] = {}
    for task, row in rows:
        by_task.setdefault(task, []).append(row)
    with figure_settings():
        if all(len({row["heads"] for row in points}) == 1 for points in by_task.values()):
            return _removal_bars(by_task, stability)
        figure, axes = panels(len(by_task), 1.6, f"Heads removed (of {stability['num_players']})", "Score (%)")
        handles: dict[str, Any] = {}
        for axis, (task, points) in zip(axes, by_task.items(), strict=True):
            _removal_panel(axis, points, handles)
            axis.set_title(task)
        legend(figure, handles, list(handles))
    return figure


def _errors(points: Sequence[Row]) -> list[Any]:
    score = np.array([row["score"] for row in points])
    low = np.array([row.get("low", row["score"]) for row in points])
    high = np.array([row.get("high", row["score"]) for row in points])
    return [np.maximum(score - low, 0), np.maximum(high - score, 0)]


def _removal_panel(axis: Axes, points: Sequence[Row], handles: dict[str, Any]) -> None:
    full = next((row["full_score"] for row in points if row.get("full_score") is not None), None)
    if full is not None:
        handles["Full"] = axis.axhline(full, color="black", linestyle=(0, (4, 2)), linewidth=0.9)
    for cut in CUTS:
        line = [row for row in points if row["cut"] == cut]
        if not line:
            continue
        errors = _errors(line)
        handles[f"{cut} heads"] = axis.errorbar(
            [row["heads"] for row in line], [row["score"] for row in line], yerr=errors,
            **ERROR_BAR, **CUT_STYLE[cut],
        )  # fmt: skip
        if full is not None:
            axis.plot([0, line[0]["heads"]], [full, line[0]["score"]], color=CUT_STYLE[cut]["color"], linestyle=":")
    axis.set_xlim(-0.4, max(row["heads"] for row in points) + 0.4)
    axis.set_ylim(-4, 105)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _removal_bars(by_task: Mapping[str, Sequence[Row]], stability: Row) -> Figure:
    """Bars per task, at most ACROSS tasks in a row of axes."""
    tasks = list(by_task)
    rows = math.ceil(len(tasks) / ACROSS)
    across = math.ceil(len(tasks) / rows)
    figure = Figure(figsize=(min(PAGE_WIDTH, 2.4 + 0.75 * across), 0.5 + 1.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for place, axis in enumerate(figure.subplots(rows, 1, squeeze=False)[:, 0]):
        shown = tasks[place * across : (place + 1) * across]
        _bars(axis, {task: by_task[task] for task in shown}, handles)
        axis.set_xlim(-0.6, across - 0.4)
    heads = sorted({row["heads"] for points in by_task.values() for row in points})
    count = str(heads[0]) if len(heads) == 1 else f"{heads[0]} to {heads[-1]}"
    figure.axes[0].set_title(f"{count} of {stability['num_players']} heads removed")
    legend(figure, handles, ["Full", *handles])
    return figure


def _bars(axis: Axes, by_task: Mapping[str, Sequence[Row]], handles: dict[str, Any]) -> None:
    cuts = [cut for cut in CUTS if any(row["cut"] == cut for points in by_task.values() for row in points)]
    width = 0.8 / len(cuts)
    for number, cut in enumerate(cuts):
        bars = [(place, row) for place, points in enumerate(by_task.values()) for row in points if row["cut"] == cut]
        measured = [row for _, row in bars]
        left = [task - 0.4 + width * (number + 0.5) for task, _ in bars]
        handles[f"{cut} heads"] = axis.bar(
            left, [row["score"] for row in measured], width=0.92 * width, yerr=_errors(measured),
            error_kw={"elinewidth": 0.7}, color=CUT_STYLE[cut]["color"],
        )  # fmt: skip
    for place, points in enumerate(by_task.values()):
        full = next((row["full_score"] for row in points if row.get("full_score") is not None), None)
        if full is not None:
            handles["Full"] = axis.hlines(
                full, place - 0.45, place + 0.45, color="black", linestyle=(0, (4, 2)), lw=0.9
            )
    axis.set_xticks(range(len(by_task)), [task.replace("_", "\n") for task in by_task])
    axis.grid(axis="x", visible=False)
    axis.set_ylim(0, 105)
    axis.set_ylabel("Score (%)")
