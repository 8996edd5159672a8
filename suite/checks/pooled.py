"""Means over samples, then over tasks, every task weighted alike, with intervals (reports/intervals.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cokv.types import FloatArray
from reports.intervals import estimate, share_interval, share_p
from reports.permutation import sign_flip_p

Scores = Mapping[str, FloatArray]  # [samples] by task, in percent


def total(scores: Scores) -> int:
    """Samples of all tasks."""
    return sum(map(len, scores.values()))


def mean_of(scores: Scores) -> dict[str, float]:
    return estimate(_groups(scores))


def difference(scores: Scores, base: Scores) -> dict[str, float]:
    """Paired, with `differing`: how many samples have another score; and p: of the sign-flip test."""
    gaps = [ours - theirs for ours, theirs in zip(_groups(scores), _groups(base, scores), strict=True)]
    differing = sum(int(np.count_nonzero(gap)) for gap in gaps)
    return {**estimate(gaps, paired=True), "differing": differing, "p": sign_flip_p(gaps)}


def share(scores: Scores, whole: Scores, bar: float | None = None) -> dict[str, float]:
    """scores as percent of `whole`; empty where the whole is 0, no interval where it may be. bar: a share, for which p
    is given.
    """
    parts, wholes = _groups(scores), _groups(whole, scores)
    full = float(np.mean([group.mean() for group in wholes]))
    if full <= 0:
        return {}
    of = {"score": 100 * float(np.mean([group.mean() for group in parts])) / full}
    if min(map(len, parts)) < 2:
        return of
    low, high = share_interval(parts, wholes)
    if not np.isfinite(high):
        return of
    of |= {"low": 100 * float(low), "high": 100 * float(high)}
    return of if bar is None else {**of, "p": float(share_p(parts, wholes, bar))}


def _groups(scores: Scores, order: Scores | None = None) -> list[FloatArray]:
    return [np.asarray(scores[task], dtype=np.float64) for task in (order or scores)]


def by_task(scores: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Each task's mean, for a record."""
    return {task: float(np.mean(values)) for task, values in scores.items()}
