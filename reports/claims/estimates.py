"""Numbers with an interval at any confidence: what a claim is judged by.

Where every sample's score is at hand the interval is that of every table (reports/intervals.py). Where only a score
with its 95 % interval is on record, that is widened by the quantiles of Student's t; an interval of a bootstrap, as
older files hold, also by what it lacks with few samples.

Does not know: what a number means, and where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from reports.intervals import CONFIDENCE, Floats, difference_interval, share_interval

Interval = tuple[float, float]
Ends = tuple[float, float]  # of the scale of a value
SCALE: Ends = (0.0, 100.0)  # of a score in percent


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


def difference_estimate(gaps: Sequence[Floats], of: str, basis: str) -> Estimate:
    """Mean over tasks of paired differences [samples] of scores in percent, two or more of each task."""

    def interval(confidence: float) -> Interval:
        low, high = difference_interval(gaps, confidence)
        return float(low), float(high)

    return Estimate(_mean(gaps), interval, sum(map(len, gaps)), of, basis)


def ratio_estimate(tops: Sequence[Floats], bottoms: Sequence[Floats], of: str, basis: str) -> Estimate:
    """Mean of `tops` as percent of that of `bottoms`, paired scores [samples] per task; the latter's mean is above 0.

    The high end is infinite where the mean of `bottoms` may be 0.
    """

    def interval(confidence: float) -> Interval:
        low, high = share_interval(tops, bottoms, confidence)
        return 100 * float(low), 100 * float(high)

    return Estimate(100 * _mean(tops) / _mean(bottoms), interval, sum(map(len, tops)), of, basis)


def mean_estimate(groups: Sequence[Floats], of: str, basis: str) -> Estimate:
    """Mean over groups of values [heads] of each, many and on a scale without ends: Welch's t interval."""
    counts = np.array([len(values) for values in groups])
    parts = np.array([values.var(ddof=1) for values in groups]) / counts / len(groups) ** 2
    freedom = parts.sum() ** 2 / (parts**2 / (counts - 1)).sum()
    mean, error = _mean(groups), math.sqrt(parts.sum())

    def interval(confidence: float) -> Interval:
        half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
        return mean - half, mean + half

    return Estimate(mean, interval, int(counts.sum()), of, basis)


def difference_of_summaries(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], n: int, bootstrap: bool, basis: str
) -> Estimate:
    """Mean over tasks of first minus second, each with score, low and high at 95 %, of `n` samples each.

    How the two vary together is not on record, so their widths add up.
    """
    mean = sum(float(first["score"]) - float(second["score"]) for first, second in rows) / len(rows)
    total = n * len(rows)

    def half(ends: tuple[str, str], confidence: float) -> float:
        widths = [
            sum(_distance(row, end, n, bootstrap, confidence) for row, end in zip(pair, ends, strict=True))
            for pair in rows
        ]
        unseen = _unseen(mean, (-100.0, 100.0), total, confidence) if bootstrap else 0.0
        return math.hypot(math.hypot(*widths) / len(rows), unseen)

    def interval(confidence: float) -> Interval:
        low, high = half(("low", "high"), confidence), half(("high", "low"), confidence)
        return max(mean - low, -100.0), min(mean + high, 100.0)

    return Estimate(mean, interval, total, "samples", basis)


def summary_estimate(row: Mapping[str, Any], n: int, bootstrap: bool, basis: str) -> Estimate:
    """A share of the full score in percent with its 95 % interval on record: score, low and high, of `n` samples."""
    score = float(row["score"])

    def interval(confidence: float) -> Interval:
        unseen = _unseen(score, SCALE, n, confidence) if bootstrap else 0.0
        low, high = (math.hypot(_distance(row, end, n, bootstrap, confidence), unseen) for end in ("low", "high"))
        return max(score - low, 0.0), score + high

    return Estimate(score, interval, n, "samples", basis)


def median_estimate(row: Mapping[str, Any], repeats: int, of: str, basis: str) -> Estimate:
    """A median with the smallest and largest of its repeats: the sign test's interval, none where these are few."""

    def interval(confidence: float) -> Interval:
        enough = 1 - 2 * 0.5**repeats >= confidence
        return (float(row["min"]), float(row["max"])) if enough else (-math.inf, math.inf)

    return Estimate(float(row["median"]), interval, repeats, of, basis)


def _mean(groups: Sequence[Floats]) -> float:
    return float(np.mean([values.mean() for values in groups]))


def _distance(row: Mapping[str, Any], end: str, n: int, bootstrap: bool, confidence: float) -> float:
    """Distance of one end of a 95 % interval from its score, as it would be at `confidence`.

    A percentile bootstrap's quantiles are the normal's, and its variance is that of n samples, not of n - 1.
    """
    normal = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) / math.sqrt(n / (n - 1))
    factor = _quantile(n, confidence) / (normal if bootstrap else _quantile(n, CONFIDENCE))
    return factor * abs(float(row[end]) - float(row["score"]))


def _unseen(mean: float, ends: Ends, n: int, confidence: float) -> float:
    """What two samples that were not seen, one at either end of the scale, add to half a width: a bootstrap of samples
    that all score alike has none.
    """
    return _quantile(n, confidence) * math.hypot(ends[1] - mean, mean - ends[0]) / (n + 2)


def _quantile(n: int, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, n - 1))
