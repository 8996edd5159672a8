"""Which prompt tokens each method kept: a panel per method, heads from top to bottom, the prompt from left to right.

Above all panels stands what the full cache answers, below them which methods could not run, and why.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reports.kv_budget import Budget, budget_words, slots_of
from reports.style import PAGE_WIDTH, figure_settings

ANSWER = 60  # characters of an answer in a title
LOW = 0.12  # inches of a panel in which every token is kept
LINE = 150  # characters of a line across the page
SHADES = "Blues"
BARS = "#0072B2"
DASHED = (0, (3, 2))


@dataclass(frozen=True, eq=False)
class Kept:
    """shares: kept share of each stretch of the prompt, [num_layers * num_kv_heads, stretches]; counts: slots
    [num_layers, num_kv_heads]; stored: how what is kept is stored, where it is not as it is."""

    method: str
    shares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    answer: str
    same: bool  # as the full cache's answer
    stored: str = ""

    def title(self) -> str:
        stored = f" ({self.stored})" if self.stored else ""
        return f"{self.method}{stored}: {_short(self.answer)} ({'as' if self.same else 'not as'} the full cache)"


def kept_figure(
    panels: Sequence[Kept],
    seq_len: int,
    kv_budget: Budget,
    full_answer: str,
    missing: Mapping[str, str],
    kv_slots: int | None = None,
) -> Figure:
    """Beside each panel, how many slots every head has; a line marks the budget, `kv_slots` where it is a share.

    missing: why, by method that could not run.
    """
    assert panels, "no panel to draw"
    num_kv_heads, heads = panels[0].counts.shape[1], panels[0].counts.size
    keeps_all = [bool((panel.shares == 1).all()) for panel in panels]  # nothing to see: a low panel
    height = min(max(0.045 * heads, 0.45), 2.2)
    heights = [LOW if all_kept else height for all_kept in keeps_all]
    below = _missing(missing)
    budget = {"kv_budget": kv_budget, "kv_slots": kv_slots}
    slots = slots_of(budget)
    assert slots is not None, "a share of the prompt needs its slots"
    with figure_settings(grid=False):
        inches = sum(heights) + 0.32 * len(panels) + 0.75 + 0.12 * len(below)
        figure = Figure(figsize=(PAGE_WIDTH, inches), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(
            len(panels), 2, squeeze=False, width_ratios=(8, 1), height_ratios=heights, sharex="col"
        )  # fmt: skip
        most = max(int(panel.counts.max()) for panel in panels)
        for (axis, side), panel, all_kept in zip(grid.tolist(), panels, keeps_all, strict=True):
            axis.imshow(
                panel.shares, cmap=SHADES, vmin=0, vmax=1, aspect="auto", interpolation="nearest",
                extent=(0, seq_len, heads, 0),
            )  # fmt: skip
            for layer in range(num_kv_heads, heads, num_kv_heads):
                axis.axhline(layer, color="black", linewidth=0.25, alpha=0.5)
            axis.set_title(_plain(panel.title()), loc="left")
            axis.set_ylabel("" if all_kept else "head")
            axis.yaxis.set_major_locator(MaxNLocator(1 if all_kept else 3, integer=True))
            axis.tick_params(length=1.5)
            side.barh(np.arange(heads) + 0.5, panel.counts.ravel(), height=0.8, color=BARS)
            side.axvline(slots, color="black", linewidth=0.6, linestyle=DASHED)
            side.set_ylim(heads, 0)
            side.set_xlim(0, most * 1.05)
            side.set_yticks([])
            side.xaxis.set_major_locator(MaxNLocator(2, integer=True))
        grid[-1, 0].set_xlabel("prompt token (lines: layers)")
        grid[-1, 1].set_xlabel("slots")
        _legend(figure, budget_words(budget), _plain(f"The full cache answers: {_short(full_answer)}"))
        if below:
            figure.supxlabel(_plain("\n".join(below)), x=0.01, ha="left", fontsize=6.5)
    return figure


def _legend(figure: Figure, budget: str, title: str) -> None:
    shades = mpl.colormaps[SHADES]
    words = {0.0: "none kept", 0.5: "half of these tokens", 1.0: "all kept"}
    shown: list[tuple[Patch | Line2D, str]] = [
        (Patch(facecolor=shades(share), edgecolor="black", linewidth=0.3), text) for share, text in words.items()
    ]
    shown.append((Patch(facecolor=BARS), "slots of a head"))
    shown.append((Line2D([], [], color="black", linewidth=0.6, linestyle=DASHED), f"budget: {budget}"))
    handles, labels = zip(*shown, strict=True)
    figure.legend(
        handles, labels, loc="outside upper left", frameon=False, ncols=len(shown), columnspacing=1.4, title=title,
        title_fontsize=8, alignment="left",
    )  # fmt: skip


def _missing(missing: Mapping[str, str]) -> list[str]:
    """Lines that name the methods that could not run, with the reason."""
    lines = ["Could not run:"] if missing else []
    for method, why in missing.items():
        lines += textwrap.wrap(f"{method}: {why}", LINE, initial_indent="  ", subsequent_indent="    ")
    return lines


def _short(answer: str) -> str:
    """On one line, its end left out where it is long."""
    answer = " ".join(answer.split())
    return answer if len(answer) <= ANSWER else answer[: ANSWER - 1] + "…"


def _plain(text: str) -> str:
    """A dollar sign is one, and begins no formula."""
    return text.replace("$", r"\$")
