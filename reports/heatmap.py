"""Heat maps: heads (layers x KV heads) side by side, and one matrix with its values written in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.style import PAGE_WIDTH, figure_settings

Matrix: TypeAlias = npt.NDArray[np.float64]


def heads_figure(panels: Mapping[str, Matrix], unit: str) -> Figure:
    """A panel per title: values [num_layers, num_kv_heads], each on its own scale, named in `unit`."""
    assert panels, "no panel to draw"
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    height = max(0.9 + 0.075 * max(values.shape[0] for values in panels.values()), 1.4)
    with figure_settings(grid=False):
        figure = Figure(figsize=(min(PAGE_WIDTH, 0.6 + 1.75 * columns), height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for axis, (title, values) in zip(grid, panels.items(), strict=False):
            image = axis.imshow(values, cmap="cividis", aspect="auto", interpolation="nearest")
            axis.set_title(_wrapped(title))
            axis.set_xlabel("KV head")
            axis.set_ylabel("Layer")
            axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(8, integer=True))
            bar = figure.colorbar(image, ax=axis, fraction=0.08, pad=0.03)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=5.5, length=1.5, width=0.4)
            bar.set_label(unit, fontsize=6)
        for axis in grid[len(panels) :]:
            axis.remove()
    return figure


def matrix_figure(
    cells: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    labels: tuple[str, str] = ("", ""),
    span: tuple[float, float] | None = None,
    digits: int = 2,
) -> Figure:
    """A matrix with its values written in; what is missing stays white. labels: of the rows, of the columns."""
    values = np.array([[np.nan if cell is None else cell for cell in row] for row in cells], dtype=np.float64)
    assert values.shape == (len(rows), len(columns))
    finite = values[np.isfinite(values)]
    low, high = span or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    side = 0.42 if max(values.shape) <= 10 else 0.3
    longest = max((len(name) for name in [*rows, *columns]), default=1)
    with figure_settings(grid=False):
        margin = 0.7 + 0.055 * min(longest, 40)
        size = (side * len(columns) + margin + 0.5, side * len(rows) + margin)
        figure = Figure(figsize=(max(size[0], 2.4), max(size[1], 1.6)), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        image = axis.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axis.set_xticks(range(len(columns)), [_cut(name) for name in columns], rotation=45, ha="right")
        axis.set_yticks(range(len(rows)), [_cut(name) for name in rows])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(title)
        axis.set_ylabel(labels[0])
        axis.set_xlabel(labels[1])
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                text = f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
                colour = "white" if value < (low + high) / 2 else "black"
                axis.text(column, row, text, ha="center", va="center", fontsize=5.5, color=colour)
        bar = figure.colorbar(image, ax=axis, fraction=0.05, pad=0.03)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=5.5, length=1.5, width=0.4)
    return figure


def _wrapped(title: str, width: int = 22) -> str:
    """Lines of at most `width` characters, broken after separators where there are any."""
    lines = [""]
    for part in re.findall(r"[^ _,-]*[ _,-]*", title):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip()[: 2 * width] for line in lines)


def _cut(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:29]}…"
