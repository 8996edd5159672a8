"""Score against KV budget, a panel per task. Colour-blind-safe palette, a marker of its own per method.

Of many methods the best and the named ones are drawn, the others stand behind them in grey: their numbers are in the
tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from reports.kv_budget import Budget, budget_text, slot_positions
from reports.labels import Labels, is_full
from reports.overview import by_score
from reports.records import Variant, variant_of
from reports.style import ERROR_BAR, figure_settings, legend, panels

Row = Mapping[str, Any]
MOST = 8  # methods with a colour of their own
ALWAYS = ("snapkv", "cokv")  # the baseline, and what this package is about
OTHERS = "other methods"


def score_figure(metrics: Row, labels: Labels, benchmark: str) -> Figure | None:
    """Score against budget: a panel per task and one for the average; intervals as bars, the full cache as a line."""
    cells = [row for row in metrics["cells"] if row["benchmark"] == benchmark]
    tasks = sorted({row["task"] for row in cells})
    parts: list[tuple[str, list[Row]]] = [(task, [row for row in cells if row["task"] == task]) for task in tasks]
    if len(tasks) > 1:
        parts.append(("Average", [row for row in metrics["averages"] if row["benchmark"] == benchmark]))
    budgets = slot_positions(cells)
    if not budgets or not any("mean" in row for row in cells):
        return None  # no budget, or no method could meet one
    shown_variants = shown(metrics, labels)
    drawn = Labels((row for row in metrics["cells"] if variant_of(row) in shown_variants), labels.titles, labels.facts)
    with figure_settings():
        figure, axes = panels(len(parts), 1.6, "KV slots per head", "Score (%)")
        handles: dict[str, Any] = {}
        for axis, (title, rows) in zip(axes, parts, strict=True):
            _score_panel(axis, rows, budgets | slot_positions(rows), labels, drawn, handles)
            axis.set_title(title, fontweight="bold" if title == "Average" else "normal")
        legend(figure, handles, [*(labels.name(variant) for variant in labels.variants), OTHERS])
    return figure


def shown(metrics: Row, labels: Labels) -> list[Variant]:
    """The variants with a colour and bars: all of few; of many the full cache, the named ones and the best."""
    if len(labels.variants) <= MOST + 1:
        return labels.variants
    sized = {variant_of(row) for row in metrics["cells"] if row["kv_budget"] is not None}
    best = [variant for variant in by_score(metrics, labels) if variant in sized]
    named = [variant for variant in best if variant.method in ALWAYS]
    chosen = {*(named + [variant for variant in best if variant not in named])[:MOST]}
    return [variant for variant in labels.variants if is_full(variant) or variant in chosen]


def _score_panel(
    axis: Axes,
    rows: Sequence[Row],
    positions: Mapping[Budget, float],
    labels: Labels,
    drawn: Labels,
    handles: dict[str, Any],
) -> None:
    ends: list[float] = []  # of intervals, which must fit on the axis
    shifted = [variant for variant in drawn.variants if not is_full(variant)]
    for variant in labels.variants:
        points = sorted(
            (row for row in rows if variant_of(row) == variant and "mean" in row),
            key=lambda row: positions.get(row["kv_budget"], 0),
        )
        if not points:
            continue
        low = [row.get("low", row["mean"]) for row in points]
        high = [row.get("high", row["mean"]) for row in points]
        mean = [row["mean"] for row in points]
        slots = [positions.get(row["kv_budget"], 0) for row in points]
        ends += [*low, *high] if variant in drawn.variants else mean
        name = labels.name(variant)
        if is_full(variant):
            axis.axhspan(low[0], high[0], color="black", alpha=0.08, linewidth=0)
            handles[name] = axis.axhline(mean[0], color="black", linestyle=(0, (4, 2)), linewidth=0.9)
            continue
        if variant not in drawn.variants:
            if points[0]["kv_budget"] is not None:
                (handles[OTHERS],) = axis.plot(slots, mean, color="0.8", linewidth=0.6)
            continue
        if all(row["kv_budget"] is None for row in points):  # keeps every position, at fewer bits
            handles[name] = axis.axhline(mean[0], color=drawn.style(variant)["color"], linestyle=":", linewidth=0.9)
            continue
        # A small shift per method, the same share of every budget, keeps the bars of equal scores apart.
        shift = min(1.035, 1.25 ** (1 / len(shifted))) ** (shifted.index(variant) - (len(shifted) - 1) / 2)
        bars = [np.subtract(mean, low), np.subtract(high, mean)]
        handles[name] = axis.errorbar(
            np.multiply(slots, shift), mean, yerr=bars, **ERROR_BAR, **drawn.style(variant)
        )  # fmt: skip
    ticks = list(positions.values())
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    mixed = len({isinstance(budget, str) for budget in positions}) > 1
    axis.set_xticklabels([_tick(budget, mixed) for budget in positions])
    axis.set_xlim(min(ticks) / 1.35, max(ticks) * 1.35)
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if ends:
        axis.set_ylim(*_limits(min(ends), max(ends)))


def _tick(budget: Budget, mixed: bool) -> str:
    """Shares stand below numbers of slots where an axis has both, which may lie close together."""
    return "\n" * (mixed and isinstance(budget, str)) + budget_text(budget)


def _limits(low: float, high: float) -> tuple[float, float]:
    """Room for the data, never a span below 20 points: small differences must look small."""
    pad = max(0.06 * (high - low), (20 - (high - low)) / 2, 2.0)
    return max(low - pad, -4.0), min(high + pad, 105.0)
