"""All methods at a glance, as a figure: a line per method, a dot per budget, a panel per benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.kv_budget import Budget, budget_order, budget_text
from reports.labels import Labels, is_full
from reports.records import Variant, variant_of
from reports.style import ERROR_BAR, PAGE_WIDTH, figure_settings

Row = Mapping[str, Any]
SHADES = ("#9ecae1", "#4292c6", "#08306b", "#41ab5d", "#00441b")  # of budgets, small to large
WHOLE = "#D55E00"  # every position kept


def overview_figure(metrics: Row, labels: Labels) -> Figure | None:
    """Averages with their intervals, methods in the order of the tables; the full cache as a band."""
    rows = [row for row in metrics["averages"] if "mean" in row]
    variants = [v for v in labels.variants if not is_full(v) and any(variant_of(r) == v for r in rows)]
    if not variants:
        return None
    budgets = sorted({r["kv_budget"] for r in rows if r["kv_budget"] is not None}, key=budget_order)
    names = sorted({r["benchmark"] for r in rows})
    with figure_settings():
        figure = Figure(figsize=(PAGE_WIDTH, 0.165 * len(variants) + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for axis, name in zip(axes, names, strict=True):
            _panel(axis, [r for r in rows if r["benchmark"] == name], variants, budgets, handles)
            axis.set_title(name)
            axis.set_xlabel("Average score (%)")
        axes[0].set_yticks(range(len(variants)), [labels.name(v) for v in variants])
        axes[0].set_ylim(len(variants) - 0.4, -0.6)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False, ncols=len(handles))
    return figure


def _panel(
    axis: Axes, rows: Sequence[Row], variants: Sequence[Variant], budgets: Sequence[Budget], handles: dict[str, Any]
) -> None:
    for row in rows:
        variant = variant_of(row)
        low, high = row.get("low", row["mean"]), row.get("high", row["mean"])
        if is_full(variant):
            axis.axvspan(low, high, color="black", alpha=0.08, linewidth=0)
            handles["Full cache"] = axis.axvline(row["mean"], color="black", linestyle=(0, (4, 2)), linewidth=0.9)
            continue
        full = row["kv_budget"] is None
        place = 0 if full else budgets.index(row["kv_budget"])
        shift = 0.0 if full else 0.16 * (place - (len(budgets) - 1) / 2)
        handles["all positions" if full else _budget_label(row["kv_budget"])] = axis.errorbar(
            row["mean"], variants.index(variant) + shift, xerr=[[row["mean"] - low], [high - row["mean"]]],
            marker="D" if full else "o", color=WHOLE if full else SHADES[place % len(SHADES)], linestyle="none",
            **ERROR_BAR,
        )  # fmt: skip
    axis.set_xlim(-2, 102)
    axis.tick_params(axis="y", length=0)


def _budget_label(kv_budget: Budget) -> str:
    return f"{budget_text(kv_budget)} of the prompt" if isinstance(kv_budget, str) else f"{kv_budget} slots"
