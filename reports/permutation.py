"""Is a paired difference more than chance? The exact sign-flip permutation test of a mean (Fisher 1935).

Where two methods do not differ, each sample's difference could as well have the other sign. The p-value is the share of
all assignments of signs whose mean is at least as far from 0 as the one seen: all 2^n of them, counted by dynamic
programming over their sums, so nothing is drawn and no distribution is assumed. With k differences other than 0 it is
at least 2 / 2^k.

Does not know: how many such tests are made beside this one (reports/significance.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reports.intervals import Floats

DECIMALS = 4  # of a difference in points: finer ones count as equal
GRID = 2**14  # distinct sums that are told apart


def sign_flip_p(gaps: Sequence[Floats]) -> float:
    """Two-sided p-value of the mean over tasks of mean differences, every task weighted alike.

    gaps: per task, the paired differences of its samples in points; at least one of all.

    Where the sums do not fit GRID, sizes are rounded to that grid first: still an exact test, of the rounded sizes.
    """
    points = [np.rint(np.asarray(task) * 10**DECIMALS) for task in gaps]
    weighted = np.concatenate([task * _weight([len(t) for t in gaps], len(task)) for task in points])
    sizes = np.abs(weighted[weighted != 0])
    if len(sizes) == 0:
        return 1.0
    sizes = sizes / float(np.gcd.reduce(sizes.astype(np.int64)))
    if sizes.sum() > GRID:
        sizes = np.rint(sizes * (GRID / sizes.sum()))
    steps = sizes.astype(np.int64)
    total = int(steps.sum())
    seen = abs(int((steps * np.sign(weighted[weighted != 0]).astype(np.int64)).sum()))
    if seen == 0:
        return 1.0
    share = np.zeros(total + 1)  # of the assignments, by the sum of what is positive
    share[0] = 1.0
    top = 0
    for step in steps:
        share[: top + 1] /= 2
        if step:
            share[step : top + step + 1] += share[: top + 1].copy()
        else:
            share[: top + 1] *= 2
        top += int(step)
    return float(min(1.0, 2 * share[(total + seen) // 2 :].sum()))


def _weight(counts: Sequence[int], count: int) -> float:
    """Of a sample in a task of `count`: whole numbers where they are small, so that equal sums stay equal."""
    common = np.lcm.reduce(np.array(counts, dtype=np.int64))
    return float(common // count) if 0 < common <= 10**4 else 10**4 / count
