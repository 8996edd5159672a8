"""How often the reports' 95 % intervals hold what they should, and how often a table marks a difference that is none.

    python benchmarks/interval_coverage.py [--repeats 4000] [--tables 300] [--out benchmarks/results/coverage.json]

Samples are drawn from scores with a known mean (worlds/few_samples.py), few at a time, and given to the functions that
metrics.json and the checks are made with. A row is one kind of interval, number of tasks, number of samples per task
and world: the share of repetitions whose interval holds the truth, and the mean width in points. The bar is 93 %.

Tables: methods x budgets x tasks with no difference between methods, their scores correlated since they share samples;
a false mark is any difference that is called significant in the averages or the cells of a table. The bar is 6 %.

Does not know tables in which methods have equal means and other distributions: the permutation test's "no difference"
is that either of two answers could be the other method's.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # type: ignore[import-untyped]  # scipy ships no types
from worlds.few_samples import ALL, PAIRS, Scores, binary, many_uniforms, tasks_of, two_uniforms

from reports.intervals import CONFIDENCE, METHOD, Floats, average_interval, difference_interval, share_interval, share_p
from reports.permutation import sign_flip_p
from reports.significance import mark

Row = dict[str, Any]
BAR, MARKS_BAR = 0.93, 0.06
SAMPLES = (3, 6, 9, 30)
TASKS = (1, 6, 13)
CORRELATIONS = (0.3, 0.8)
METHODS, BUDGETS = 25, 4
ROUNDING = 1e-6  # points: an end at the truth holds it
FEW = 50  # repetitions behind the width of a share


def coverage(repeats: int, seed: int = 0) -> list[Row]:
    """Rows of all kinds of intervals."""
    return [row for kind in KINDS for row in _rows(kind, repeats, seed)]


def _rows(kind: str, repeats: int, seed: int) -> list[Row]:
    return list(KINDS[kind](repeats, seed))


def _means(repeats: int, seed: int) -> Iterator[Row]:
    rng = np.random.default_rng([seed, 0])
    for tasks in TASKS:
        worlds = tasks_of(tasks) if tasks > 1 else {name: [scores] for name, scores in ALL.items()}
        for n in SAMPLES:
            for name, of_tasks in worlds.items():
                groups = [scores.at(rng.random((repeats, n))) for scores in of_tasks]
                truth = float(np.mean([scores.mean for scores in of_tasks]))
                yield _row("cell" if tasks == 1 else "average", tasks, n, name, truth, average_interval(groups))


def _pairs(repeats: int, rng: np.random.Generator) -> Iterator[tuple[int, int, str, list[tuple[Floats, Floats]], Any]]:
    for tasks in TASKS:
        for n in SAMPLES:
            for correlation in CORRELATIONS:
                for name, pair in PAIRS.items():
                    uniforms = [two_uniforms(rng, (repeats, n), correlation) for _ in range(tasks)]
                    drawn = [(pair[0].at(first), pair[1].at(second)) for first, second in uniforms]
                    yield tasks, n, f"{name}, correlation {correlation}", drawn, pair


def _differences(repeats: int, seed: int) -> Iterator[Row]:
    for tasks, n, name, drawn, (one, other) in _pairs(repeats, np.random.default_rng([seed, 1])):
        interval = difference_interval([first - second for first, second in drawn])
        kind = "difference" if tasks == 1 else "average difference"
        yield _row(kind, tasks, n, name, one.mean - other.mean, interval)


def _shares(repeats: int, seed: int) -> Iterator[Row]:
    """Of the better of two as the whole, as a full cache is. An interval holds a share where its p is at least 0.05;
    the ends, which are searched for, are needed for the width alone.
    """
    for tasks, n, name, drawn, (one, other) in _pairs(repeats, np.random.default_rng([seed, 2])):
        turned = one.mean < other.mean
        wholes, parts = ([pair[place] for pair in drawn] for place in ((1, 0) if turned else (0, 1)))
        truth = min(one.mean, other.mean) / max(one.mean, other.mean)
        held = share_p(parts, wholes, np.full(repeats, truth)) >= 1 - CONFIDENCE
        low, high = share_interval([part[:FEW] for part in parts], [whole[:FEW] for whole in wholes])
        yield _result("share", tasks, n, name, held, 100 * (high - low))


def _row(kind: str, tasks: int, n: int, world: str, truth: float, interval: tuple[Floats, Floats]) -> Row:
    low, high = interval
    return _result(kind, tasks, n, world, (low <= truth + ROUNDING) & (truth <= high + ROUNDING), high - low)


KINDS = {"means": _means, "differences": _differences, "shares": _shares}


def _result(kind: str, tasks: int, n: int, world: str, held: npt.NDArray[np.bool_], widths: Floats) -> Row:
    width = np.median(widths)
    return {
        "kind": kind,
        "tasks": tasks,
        "samples": n,
        "world": world,
        "coverage": round(float(held.mean()), 4),
        **({"median_width": round(float(width), 2)} if np.isfinite(width) else {}),
    }


def worst(rows: Sequence[Row]) -> list[Row]:
    """Per kind, number of tasks and samples: the world that is covered least, how many fall short, the mean width."""
    keys = dict.fromkeys((row["kind"], row["tasks"], row["samples"]) for row in rows)
    out = []
    for key in keys:
        members = [row for row in rows if (row["kind"], row["tasks"], row["samples"]) == key]
        least = min(members, key=lambda row: row["coverage"])
        widths = [row["median_width"] for row in members if "median_width" in row]
        below = sum(row["coverage"] < BAR for row in members)
        out.append({**least, "worlds": len(members), "below_bar": below, "median_width": float(np.mean(widths))})
    return out


def table_of_no_difference(rng: np.random.Generator, scores: Callable[[int], Scores], tasks: int, n: int) -> list[int]:
    """False marks in the averages and in the cells of one table. scores: of all methods, by budget."""
    gaps = np.empty((tasks, METHODS, BUDGETS, n))
    for task in range(tasks):
        uniform = many_uniforms(rng, METHODS + 1, BUDGETS, n, 0.6)  # the last is the baseline
        for budget in range(BUDGETS):
            drawn = scores(budget).at(uniform[:, budget])
            gaps[task, :, budget] = drawn[:-1] - drawn[-1]
    averages = _tested([list(gaps[:, method, budget]) for method, budget in np.ndindex(METHODS, BUDGETS)])
    cells = _tested([[gaps[place]] for place in np.ndindex(tasks, METHODS, BUDGETS)])
    for half in (averages, cells):
        mark(half)
    return [sum(row["significant"] for row in half) for half in (averages, cells)]


def _tested(differences: Sequence[list[Floats]]) -> list[Row]:
    """p is computed where the interval excludes 0 alone, since a mark needs both; others get 1."""
    rows = []
    for groups in differences:
        low, high = difference_interval(groups)
        mean = float(np.mean([group.mean() for group in groups]))
        p = sign_flip_p(groups) if low > 0 or high < 0 else 1.0
        rows.append({"benchmark": "", "mean": mean, "low": low, "high": high, "p": p})
    return rows


WORLDS: dict[str, Callable[[int], Scores]] = {
    "binary, 0.3 to 0.9": lambda budget: binary(0.3 + 0.2 * budget),
    "binary, 0.02 to 0.98": lambda budget: binary((0.02, 0.1, 0.9, 0.98)[budget]),
    "F1-like": lambda budget: Scores(0.5 - 0.15 * budget, 0.1 + 0.1 * budget, (2, 3)),
}


def false_marks(tables: int, seed: int = 0, samples: Sequence[int] = (3, 9, 30), tasks: int = 13) -> list[Row]:
    """Share of tables without a difference that have a mark, by world and samples per task."""
    out = []
    for n in samples:
        for name, scores in WORLDS.items():
            rng = np.random.default_rng([seed, 3, n])
            marks = np.array([table_of_no_difference(rng, scores, tasks, n) for _ in range(tables)]) > 0
            out.append(
                {
                    "world": name,
                    "methods": METHODS,
                    "budgets": BUDGETS,
                    "tasks": tasks,
                    "samples": n,
                    "tables": tables,
                    "marked": round(float(marks.any(axis=1).mean()), 4),
                    "marked_averages": round(float(marks[:, 0].mean()), 4),
                    "marked_cells": round(float(marks[:, 1].mean()), 4),
                }
            )
    return out


def report(least: Sequence[Row], marks: Sequence[Row]) -> str:
    lines = [f"{'interval':<20}{'tasks':>6}{'samples':>8}{'least':>8}{'width':>8}  least covered world"]
    for row in least:
        numbers = f"{row['tasks']:>6}{row['samples']:>8}{row['coverage']:>8.3f}{row['median_width']:>8.1f}"
        short = f"  ({row['below_bar']} of {row['worlds']} below {BAR})" if row["below_bar"] else ""
        lines.append(f"{row['kind']:<20}{numbers}  {row['world']}{short}")
    lines += ["", f"{'tables without a difference':<30}{'samples':>8}{'tables':>8}{'marked':>8}"]
    lines += [f"{row['world']:<30}{row['samples']:>8}{row['tables']:>8}{row['marked']:>8.3f}" for row in marks]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Coverage of the reports' intervals, and false marks of their tables.")
    parser.add_argument("--repeats", type=int, default=4000, help="draws per world")
    parser.add_argument("--tables", type=int, default=300, help="tables per world and number of samples")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.json")
    options = parser.parse_args(arguments)
    with ProcessPoolExecutor(options.processes) as pool:
        parts = [pool.submit(_rows, kind, options.repeats, 0) for kind in KINDS]
        tables = [pool.submit(false_marks, options.tables, 0, (n,)) for n in (3, 9, 30)]
        rows = [row for part in parts for row in part.result()]
        marks = [row for part in tables for row in part.result()]
    least = worst(rows)
    print(report(least, marks))
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "interval": METHOD,
        "bars": {"coverage": BAR, "marked": MARKS_BAR},
        "repeats": options.repeats,
        "worst": least,
        "tables": marks,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
