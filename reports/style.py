"""How figures look and are saved: settings, a grid of panels, a legend, and PNG, PDF and SVG files.

Readable at the width of a page (7 inches). The settings are matplotlib's defaults and STYLE, whatever a user's
matplotlibrc says; matplotlib's global state and back end are left as they are.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from reports.text import clip, visible

PAGE_WIDTH = 7.0  # inches
LONGEST = 100  # characters of a text in a figure
STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.35,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "reports",
}
ERROR_BAR: dict[str, Any] = {"elinewidth": 0.7, "markeredgewidth": 0}


@contextmanager
def figure_settings(grid: bool = True) -> Iterator[None]:
    """Inside, matplotlib draws with its own defaults and STYLE; afterwards its settings are as before."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, "axes.grid": grid})
        yield


def save(figure: Figure, folder: Path, stem: str, vector: Literal["pdf", "svg"] = "pdf") -> list[Path]:
    """PNG and a vector format, without dates, so that the same numbers give the same files. Makes the folder.

    Both are drawn in memory first: a disk that is full is an OSError of the write, never one inside a renderer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, vector_file = io.BytesIO(), io.BytesIO()
    _plain_texts(figure)
    with figure_settings(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not again for each file
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(vector_file, format=vector, metadata={"CreationDate" if vector == "pdf" else "Date": None})
    paths = [folder / f"{stem}.png", folder / f"{stem}.{vector}"]
    for path, drawn in zip(paths, (png, vector_file), strict=True):
        path.write_bytes(drawn.getvalue())
    return paths


def _plain_texts(figure: Figure) -> None:
    """No text is read as mathematics, and none holds a character that nobody sees or is longer than a line."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_majorticklabels()]
            if any(_plain(text) != text for text in labels if not text.startswith(r"$\mathdefault")):
                axis.set_ticks(axis.get_majorticklocs(), labels=[_plain(text) for text in labels])
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(_plain(text.get_text()))


def _plain(text: str) -> str:
    return re.sub(r"(?<!\\)\$", r"\$", clip(visible(text, lines=True), LONGEST))


def panels(count: int, height: float, xlabel: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    """A grid of `count` axes, labelled along its left and lower rim; `height` in inches per row."""
    columns = min(count, 3 if count in (5, 6, 9) else 4)
    rows = math.ceil(count / columns)
    width = PAGE_WIDTH if columns > 2 else 0.3 * PAGE_WIDTH * columns + 0.8
    figure = Figure(figsize=(width, height * rows + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for place, axis in enumerate(grid):
        if place >= count:
            axis.remove()
            continue
        if place + columns >= count:
            axis.set_xlabel(xlabel)
        if place % columns == 0:
            axis.set_ylabel(ylabel)
    return figure, grid[:count]


def legend(figure: Figure, handles: Mapping[str, Any], order: Sequence[str]) -> None:
    names = [name for name in dict.fromkeys(order) if name in handles]
    across = max(3, int(figure.get_figwidth() / 1.1))
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", frameon=False, handlelength=2.2,
        columnspacing=1.4, ncols=math.ceil(len(names) / math.ceil(len(names) / across)),
    )  # fmt: skip
