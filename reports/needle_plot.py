"""The needle grid as papers draw it: depth down, length across, the score as a colour; a panel per method and budget.

Reads the records, since the tables have only lengths. A cell is the mean of its samples; what has none stays white.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.kv_budget import budget_order, budget_text
from reports.labels import Labels
from reports.records import Variant, variant_of
from reports.style import PAGE_WIDTH, figure_settings

BENCHMARK = "needle"
COLUMNS = 2
MOST = 24  # panels; more would be a poster


def needle_figure(records: Iterable[Mapping[str, Any]], labels: Labels) -> Figure | None:
    """None for a run without needles, or where no method could meet its budget."""
    scores: dict[tuple[Variant, Any], dict[tuple[float, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["benchmark"] == BENCHMARK and record["score"] is not None:
            cell = float(record["groups"]["depth"]), int(record["task"].rpartition("_")[2])
            scores[variant_of(record), record["kv_budget"]][cell].append(record["score"])
    if not scores:
        return None
    order = sorted(scores, key=lambda key: (labels.order(key[0]), budget_order(key[1])))[:MOST]
    depths = sorted({depth for cells in scores.values() for depth, _ in cells})
    lengths = sorted({length for cells in scores.values() for _, length in cells})
    columns = min(COLUMNS, len(order))
    rows = math.ceil(len(order) / columns)
    with figure_settings(grid=False):
        figure = Figure(figsize=(PAGE_WIDTH, 0.6 + rows * (0.55 + 0.09 * len(depths))), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for axis, key in zip(axes, order, strict=False):
            values = np.full((len(depths), len(lengths)), np.nan)
            for (depth, length), got in scores[key].items():
                values[depths.index(depth), lengths.index(length)] = fmean(got)
            image = axis.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
            axis.set_title(_title(key, labels, float(np.nanmean(values))))
            _ticks(axis.set_xticks, [f"{length / 1000:g}k" for length in lengths])
            _ticks(axis.set_yticks, [f"{depth:g} %" for depth in depths])
        for axis in axes[len(order) :]:
            axis.remove()
        figure.supxlabel("Tokens", fontsize=7)
        figure.supylabel("Depth of the needle", fontsize=7)
        figure.colorbar(image, ax=axes[: len(order)], fraction=0.03, pad=0.02).outline.set_visible(False)
    return figure


def _title(key: tuple[Variant, Any], labels: Labels, mean: float) -> str:
    variant, budget = key
    at = "" if budget is None else f" at {budget_text(budget)}"
    return f"{labels.name(variant)}{at}: {mean:.1f}"


def _ticks(place: Any, names: list[str]) -> None:
    """At most eight of the names, evenly."""
    step = math.ceil(len(names) / 8)
    place(range(0, len(names), step), names[::step])
