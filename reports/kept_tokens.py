"""Which prompt tokens each method kept: a panel per method, heads from top to bottom, the prompt from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.style import PAGE_WIDTH, STYLE

ANSWER = 60  # characters of an answer in a title


@dataclass(frozen=True, eq=False)
class Kept:
    """shares: kept share of each stretch of the prompt, [num_layers * num_kv_heads, stretches]; counts: slots
    [num_layers, num_kv_heads]."""

    method: str
    shares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    answer: str
    same: bool  # as the full cache's answer


def kept_figure(panels: Sequence[Kept], seq_len: int, num_kv_heads: int, kv_budget: int) -> Figure:
    """Beside each panel, how many slots every head has; a line marks the budget."""
    assert panels, "no panel to draw"
    heads = panels[0].shares.shape[0]
    height = min(max(0.045 * heads, 0.45), 2.2)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(PAGE_WIDTH, (height + 0.32) * len(panels) + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(panels), 2, squeeze=False, width_ratios=(8, 1), sharex="col")
        most = max(int(panel.counts.max()) for panel in panels)
        for (axis, side), panel in zip(grid.tolist(), panels, strict=True):
            axis.imshow(
                panel.shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest",
                extent=(0, seq_len, heads, 0),
            )  # fmt: skip
            for layer in range(num_kv_heads, heads, num_kv_heads):
                axis.axhline(layer, color="black", linewidth=0.25, alpha=0.5)
            answer = " ".join(panel.answer.split())
            shown = answer if len(answer) <= ANSWER else answer[: ANSWER - 1] + "…"
            judged = "as the full cache" if panel.same else "not the full cache's answer"
            axis.set_title(f"{panel.method}: {shown} ({judged})".replace("$", r"\$"), loc="left")
            axis.set_ylabel("head")
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.tick_params(length=1.5)
            side.barh(np.arange(heads) + 0.5, panel.counts.ravel(), height=0.8, color="#0072B2")
            side.axvline(kv_budget, color="black", linewidth=0.6, linestyle=(0, (3, 2)))
            side.set_ylim(heads, 0)
            side.set_xlim(0, most * 1.05)
            side.set_yticks([])
            side.xaxis.set_major_locator(MaxNLocator(2, integer=True))
        grid[-1, 0].set_xlabel("prompt token (lines: layers)")
        grid[-1, 1].set_xlabel("slots")
    return figure
