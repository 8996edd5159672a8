"""Numbers with an interval at any confidence: what a claim is judged by.

The interval of a difference is that of every table (reports/intervals.py). That of a ratio is Fieller's (1954): those
r for which `top - r * bottom`, paired by sample, may have the mean 0 by Welch's t, tasks weighted alike. Scores are
bounded and samples few, so its variance also counts two samples that were not seen, one at either end of the scale
(after Agresti & Coull 1998): samples that all score alike leave a width.

Does not know: what a number means, and where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

from reports.intervals import CONFIDENCE, Floats, difference_interval

Interval = tuple[float, float]
Ends = tuple[float, float]  # of the scale of a value


@dataclass(frozen=True)
class Estimate:
    """`interval`: confidence -> (low, high). `n` samples (or heads: `of`). `basis`: which files, and how.

    exact: a number that no sampling moves, such as bytes; its interval has no width.
    """

    value: float
    interval: Callable[[float], Interval]
    n: int
    of: str
    basis: str
    exact: bool = False


def exact(value: float, n: int, of: str, basis: str) -> Estimate:
    return Estimate(value, lambda confidence: (value, value), n, of, basis, exact=True)


def stratified_mean(strata: Sequence[Floats]) -> float:
    """Mean over tasks of each task's mean."""
    return float(np.mean([values.mean() for values in strata]))


def half_width(strata: Sequence[Floats], ends: Ends | None, confidence: float) -> float:
    """Of the interval of `stratified_mean`. strata: values [samples] of each task, at least two; ends: see above."""
    assert all(len(values) >= 2 for values in strata), "an interval needs two samples of every task"
    counts = np.array([len(values) for values in strata])
    freedom = counts - 1
    parts = np.array([values.var(ddof=1) for values in strata]) / counts / len(strata) ** 2
    if ends is not None:
        mean = stratified_mean(strata)
        unseen = ((ends[1] - mean) ** 2 + (mean - ends[0]) ** 2) / (counts.sum() + 2) ** 2
        parts, freedom = np.append(parts, unseen), np.append(freedom, freedom.sum())
    variance = parts.sum()
    if variance == 0:
        return 0.0
    welch = variance**2 / (parts**2 / freedom).sum()
    return float(stats.t.ppf((1 + confidence) / 2, welch) * math.sqrt(variance))


def mean_estimate(strata: Sequence[Floats], of: str, basis: str) -> Estimate:
    """Mean over tasks of values [samples] of each, on a scale without ends."""
    mean = stratified_mean(strata)

    def interval(confidence: float) -> Interval:
        half = half_width(strata, None, confidence)
        return mean - half, mean + half

    return Estimate(mean, interval, sum(map(len, strata)), of, basis)


def difference_estimate(gaps: Sequence[Floats], of: str, basis: str) -> Estimate:
    """Mean over tasks of paired differences [samples] of scores in percent."""

    def interval(confidence: float) -> Interval:
        low, high = difference_interval(gaps, confidence)
        return float(low), float(high)

    return Estimate(stratified_mean(gaps), interval, sum(map(len, gaps)), of, basis)


def ratio_estimate(tops: Sequence[Floats], bottoms: Sequence[Floats], of: str, basis: str) -> Estimate:
    """Mean of `tops` as percent of that of `bottoms`, scores from 0 to 100 paired by sample; the latter is above 0.

    The high end is infinite where the mean of `bottoms` may be 0.
    """
    point = stratified_mean(tops) / stratified_mean(bottoms)

    def contrast(ratio: float, sign: int, confidence: float) -> float:
        strata = [top - ratio * bottom for top, bottom in zip(tops, bottoms, strict=True)]
        return stratified_mean(strata) + sign * half_width(strata, (-100 * ratio, 100.0), confidence)

    def interval(confidence: float) -> Interval:
        low = 0.0
        if contrast(0.0, -1, confidence) > 0:
            low = optimize.brentq(contrast, 0.0, point, args=(-1, confidence))
        above = max(2 * point, 1.0)
        while contrast(above, +1, confidence) > 0:
            above *= 2
            if above > 1e4:
                return 100 * low, math.inf
        return 100 * low, 100 * optimize.brentq(contrast, point, above, args=(+1, confidence))

    return Estimate(100 * point, interval, sum(map(len, tops)), of, basis)


def difference_of_summaries(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], n: int, basis: str
) -> Estimate:
    """Mean over tasks of first minus second, each with score, low and high at 95 %, of `n` samples each.

    How the two vary together is not on record, so their widths add up. An interval of few samples from the bootstrap is
    too narrow by sqrt(n / (n - 1)), and its quantiles are the normal's: both are put right when it is widened.
    """
    gaps = [float(first["score"]) - float(second["score"]) for first, second in rows]
    mean, total = sum(gaps) / len(gaps), n * len(rows)

    def interval(confidence: float) -> Interval:
        below = [
            _widened(first, "low", n, confidence) + _widened(second, "high", n, confidence) for first, second in rows
        ]
        above = [
            _widened(first, "high", n, confidence) + _widened(second, "low", n, confidence) for first, second in rows
        ]
        unseen = _unseen(mean, (-100.0, 100.0), total, confidence)
        low = mean - math.hypot(math.hypot(*below) / len(rows), unseen)
        return max(low, -100.0), min(mean + math.hypot(math.hypot(*above) / len(rows), unseen), 100.0)

    return Estimate(mean, interval, total, "samples", basis)


def summary_estimate(row: Mapping[str, Any], n: int, basis: str, ends: Ends = (0.0, 100.0)) -> Estimate:
    """One number with its 95 % interval on record: score, low and high, of `n` samples."""
    score = float(row["score"])

    def interval(confidence: float) -> Interval:
        unseen = _unseen(score, ends, n, confidence)
        low = score - math.hypot(_widened(row, "low", n, confidence), unseen)
        return max(low, ends[0]), score + math.hypot(_widened(row, "high", n, confidence), unseen)

    return Estimate(score, interval, n, "samples", basis)


def median_estimate(row: Mapping[str, Any], repeats: int, of: str, basis: str) -> Estimate:
    """A median with the smallest and largest of its repeats: the sign test's interval, none where these are few."""

    def interval(confidence: float) -> Interval:
        enough = 1 - 2 * 0.5**repeats >= confidence
        return (float(row["min"]), float(row["max"])) if enough else (-math.inf, math.inf)

    return Estimate(float(row["median"]), interval, repeats, of, basis)


def _widened(row: Mapping[str, Any], end: str, n: int, confidence: float) -> float:
    """Distance of one end of a 95 % interval from its score, as it would be at `confidence`."""
    factor = _quantile(n, confidence) / stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt(n / (n - 1))
    return float(factor * abs(float(row[end]) - float(row["score"])))


def _unseen(mean: float, ends: Ends, n: int, confidence: float) -> float:
    return _quantile(n, confidence) * math.hypot(ends[1] - mean, mean - ends[0]) / (n + 2)


def _quantile(n: int, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, n - 1))
