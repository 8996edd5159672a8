"""What pooling along the prompt is worth: scores of the same methods with and without it, from a run's metrics.

    python benchmarks/pooling.py RUN_DIR [--out DIR]

RUN_DIR holds a metrics.json of `cokv reproduce`. A line per method and budget joins the average score without pooling
to that with it, a panel per benchmark; bars are the 95 % intervals of the run. SnapKV pools as published, and loses it
in its preset `unpooled`; H2O and TOVA do not, and gain it in `pooled`. What the run lacks is left out, and named.

Does not know whether a difference is more than chance: the intervals are of each score, not of the paired difference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.aggregate import SCHEMA
from reports.kv_budget import Budget, budget_order, budget_text
from reports.labels import COLOURS
from reports.records import FULL
from reports.style import ERROR_BAR, PAGE_WIDTH, figure_settings, save

Row = Mapping[str, Any]
BENCHMARKS = {"ruler": "RULER", "longbench_mini": "LongBench stand-ins", "longbench": "LongBench"}
# method: title, preset without pooling, preset with it
PRESETS = {
    "snapkv": ("SnapKV", "unpooled", "normalized"),
    "h2o": ("H2O", "normalized", "pooled"),
    "tova": ("TOVA", "normalized", "pooled"),
}
WITHOUT, WITH = COLOURS[1], COLOURS[0]


@dataclass(frozen=True)
class Pair:
    """Two rows of the metrics' averages that differ in pooling alone."""

    benchmark: str
    method: str
    kv_budget: Budget
    without: Row
    pooled: Row

    @property
    def gain(self) -> float:
        """Points of score."""
        return float(self.pooled["mean"] - self.without["mean"])


def read_averages(run: Path) -> list[Row]:
    """The averages of a run. Refuses a run of several protocols, whose rows would be mixed up."""
    try:
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{run}: no readable metrics.json ({error}); expected a finished run folder") from None
    if metrics.get("schema") != SCHEMA:
        raise SystemExit(f"{run}: metrics.json has schema {metrics.get('schema')!r}, expected {SCHEMA}")
    rows: list[Row] = metrics["averages"]
    protocols = {(row["query_aware"], row["first_token"]) for row in rows}
    if len(protocols) > 1:
        raise SystemExit(f"{run}: holds {len(protocols)} protocols (query_aware, first_token), expected one")
    return rows


def pairs_of(rows: Sequence[Row]) -> tuple[list[Pair], list[str]]:
    """The pairs that a run has, and a line for each that it lacks."""
    by_key = {(r["benchmark"], r["method"], r["preset"], r["kv_budget"]): r for r in rows}
    benchmarks = [name for name in BENCHMARKS if any(r["benchmark"] == name for r in rows)]
    pairs, missing = [], []
    for method, (title, without, pooled) in PRESETS.items():
        lacks = [preset for preset in (without, pooled) if not any(key[1:3] == (method, preset) for key in by_key)]
        if lacks:
            missing.append(f"{title}: left out, the run has no {method} of preset {' and '.join(lacks)}")
            continue
        budgets = {key[3] for key in by_key if key[1] == method}
        for benchmark, budget in ((b, k) for b in benchmarks for k in sorted(budgets, key=budget_order)):
            two = [by_key.get((benchmark, method, preset, budget), {}) for preset in (without, pooled)]
            if all("mean" in row for row in two):
                pairs.append(Pair(benchmark, method, budget, *two))
            else:
                missing.append(
                    f"{title}, {BENCHMARKS[benchmark]}, {budget_text(budget)}: left out, not both have a score"
                )
    return pairs, missing


def pooling_figure(pairs: Sequence[Pair], rows: Sequence[Row]) -> Figure:
    """A panel per benchmark with a line per method and budget. rows: averages, for the full cache's score."""
    lines = list(dict.fromkeys((pair.method, pair.kv_budget) for pair in pairs))
    lines.sort(key=lambda line: (list(PRESETS).index(line[0]), budget_order(line[1])))
    places = dict(zip(lines, _spaced(lines), strict=True))
    benchmarks = list(dict.fromkeys(pair.benchmark for pair in pairs))
    with figure_settings():
        figure = Figure(figsize=(PAGE_WIDTH, 0.19 * max(places.values()) + 1.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(benchmarks), sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            for row in rows:
                if row["benchmark"] == benchmark and row["method"] == FULL and "mean" in row:
                    line = axis.axvline(row["mean"], color="black", linestyle=(0, (4, 2)), linewidth=0.9)
                    handles["Full cache"] = line
            for pair in pairs:
                if pair.benchmark == benchmark:
                    _draw(axis, pair, places[pair.method, pair.kv_budget], handles)
            axis.set_title(BENCHMARKS[benchmark])
            axis.set_xlabel("Average score (%); on the right the gain in points")
            axis.set_xlim(-2, 112)
            axis.set_xticks(range(0, 101, 20))
            axis.tick_params(axis="y", length=0)
        axes[0].set_yticks(list(places.values()), [f"{PRESETS[m][0]}, {budget_text(k)}" for m, k in places])
        axes[0].set_ylim(max(places.values()) + 0.7, -0.7)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False, ncols=len(handles))
    return figure


def _spaced(lines: Sequence[tuple[str, Budget]]) -> Iterator[float]:
    """Heights of the lines, with a gap between methods."""
    methods = list(dict.fromkeys(method for method, _ in lines))
    for number, (method, _) in enumerate(lines):
        yield number + 0.6 * methods.index(method)


def _draw(axis: Axes, pair: Pair, place: float, handles: dict[str, Any]) -> None:
    ends = [pair.without["mean"], pair.pooled["mean"]]
    axis.plot(ends, [place, place], color="0.75", linewidth=2.0, zorder=1)
    for name, row, colour, marker in (
        ("Without pooling", pair.without, WITHOUT, "o"),
        ("With pooling", pair.pooled, WITH, "D"),
    ):
        mean, low, high = row["mean"], row.get("low", row["mean"]), row.get("high", row["mean"])
        handles[name] = axis.errorbar(
            mean, place, xerr=[[mean - low], [high - mean]], color=colour, marker=marker, linestyle="none", **ERROR_BAR
        )
    gain = f"{pair.gain:+.0f}".replace("-", "\N{MINUS SIGN}")
    axis.text(111, place, gain, ha="right", va="center", fontsize=6.5)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Scores with and without pooling, from a run's metrics.")
    parser.add_argument("run", type=Path, help="a folder with metrics.json")
    parser.add_argument("--out", type=Path, help="folder for pooling.png and .svg; by default RUN_DIR")
    options = parser.parse_args(arguments)
    rows = read_averages(options.run)
    pairs, missing = pairs_of(rows)
    print(*missing, sep="\n", end="\n" * bool(missing))
    if not pairs:
        raise SystemExit("no picture: the run has no method both with and without pooling")
    for pair in pairs:
        print(
            f"{PRESETS[pair.method][0]}, {BENCHMARKS[pair.benchmark]}, {budget_text(pair.kv_budget)}: "
            f"{pair.without['mean']:.1f} without, {pair.pooled['mean']:.1f} with pooling ({pair.gain:+.1f})"
        )
    print(*save(pooling_figure(pairs, rows), options.out or options.run, "pooling", "svg"), sep="\n")


if __name__ == "__main__":
    main()
