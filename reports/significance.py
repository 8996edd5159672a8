"""Which differences of a score table are shown: p-values corrected for all that the table compares.

A table is one benchmark with all its budgets and methods. Its 5 % are split evenly: half for the averages over tasks,
half for the cells of single tasks; in each half Holm's step-down procedure (Holm 1979) holds the chance of one
or more false marks. So where no method differs from the baseline, at most one table in twenty has any mark.

    p            of one difference alone (reports/permutation.py)
    p_holm       twice the adjusted p of its half, at most 1: to be compared with 0.05
    significant  p_holm is at most 0.05 and the interval excludes 0
    verdict      "better" or "worse" where it is significant, else "no difference shown"
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from reports.intervals import CONFIDENCE

Row = dict[str, Any]
HALVES = 2  # the averages over tasks, the cells
ALPHA = round(1 - CONFIDENCE, 10)
CORRECTION = (
    "Exact sign-flip permutation test of the paired differences, two-sided, with Holm's correction over the table of "
    "one benchmark: half of its 5 % for the averages of all budgets and methods, half for the cells of single tasks."
)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given: the family-wise error stays at a where those of at most a are rejected."""
    order = np.argsort(np.asarray(p_values), kind="stable")
    adjusted = np.empty(len(order))
    running = 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - place) * p_values[index]))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def mark(rows: Sequence[Row]) -> None:
    """Adds p_holm, significant and verdict to the rows of one half that have a p, benchmark by benchmark."""
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if "p" in row:
            families[row["benchmark"]].append(row)
    for family in families.values():
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            corrected = min(1.0, HALVES * adjusted)
            significant = corrected <= ALPHA and "low" in row and (row["low"] > 0 or row["high"] < 0)
            row["p"], row["p_holm"], row["significant"] = _digits(row["p"]), _digits(corrected), significant
            row["verdict"] = ("better" if row["mean"] > 0 else "worse") if significant else "no difference shown"


def families(halves: dict[str, Sequence[Row]]) -> list[Row]:
    """The size of each family, and the smallest p_holm that its rows' numbers of differing pairs allow: where that is
    above 0.05, no row of it can be significant, whatever the methods do.
    """
    out = []
    for name, rows in halves.items():
        tested = [row for row in rows if "p" in row]
        for benchmark in sorted({row["benchmark"] for row in tested}):
            family = [row for row in tested if row["benchmark"] == benchmark]
            most = max(row["n"] for row in family)
            least = min(1.0, HALVES * len(family) * 2.0 ** (1 - most))
            out.append({"benchmark": benchmark, "rows": name, "size": len(family), "least_p_holm": _digits(least)})
    return out


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
