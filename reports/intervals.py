"""95 % intervals of means over few samples, for scores in percent and their paired differences.

Three kinds, chosen by simulated coverage (benchmarks/coverage.py, results/coverage.json):

    mean of one group     Gaffke's interval (Gaffke 2005; Learned-Miller & Thomas, arXiv 1905.06208): scores lie in
                          0..100, so the mean is bounded by random weights (Dirichlet) over the samples and one more at
                          the bound. For scores that are only 0 or 100 it is Clopper and Pearson's.
    average over groups   t interval with Welch's and Satterthwaite's degrees of freedom, every group weighted alike,
                          after pseudo-samples at the bounds (Agresti & Coull 1998; for pairs Bonett & Price 2012)
    paired differences    likewise, with one pseudo-pair that either side wins

A sample can only speak of what occurs in it, so where all score alike the plain bootstrap has no width; these have.

Does not know: samples that are not independent (one question under several seeds is one sample, reports/questions.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

RESAMPLES = 4000
CONFIDENCE = 0.95
TOP = 100.0  # scores are percentages

METHODS = {
    "cells": "Gaffke's interval (Clopper-Pearson for scores of 0 and 100)",
    "averages": "Welch-Satterthwaite t with pseudo-samples at 0 and 100",
    "differences": "Welch-Satterthwaite t of paired differences with pseudo-pairs",
}  # in words, as metrics.json states them

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


@lru_cache(maxsize=16)
def _weights(n: int, seed: int) -> Floats:
    """Dirichlet weights [RESAMPLES, n + 1], uniform over the simplex; rows add up to 1."""
    gaps = np.random.default_rng([seed, n]).standard_exponential((RESAMPLES, n + 1))
    return np.asarray(gaps / gaps.sum(axis=1, keepdims=True), dtype=np.float64)


def mean_interval(scores: Floats, seed: int = 0) -> Interval:
    """Gaffke's interval of the mean of scores [n] in 0..100, n >= 1. Their order does not matter."""
    ordered = np.sort(scores)
    weights = _weights(len(ordered), seed)
    inner, outer = weights[:, :-1] @ ordered, weights[:, -1] * TOP
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(inner, tail), np.quantile(inner + outer, 1 - tail)
    mean = float(ordered.mean())
    return min(float(low), mean), max(float(high), mean)


def average_interval(groups: Sequence[Floats]) -> Interval:
    """Of the mean over groups of mean scores; groups: one array [n] of scores per task, n >= 2 each."""
    pseudo = 4 / len(groups)
    low, high = _pseudo_t(groups, pseudo, 0.0, TOP, CONFIDENCE)
    return max(low, 0.0), min(high, TOP)


def difference_interval(groups: Sequence[Floats], confidence: float = CONFIDENCE) -> Interval:
    """Of the mean over groups of mean paired differences; groups: one array [n] per task, n >= 2 each."""
    values = np.concatenate(list(groups))
    largest = float(np.abs(values).max()) or TOP
    alike = (len(values) - len(np.unique(values))) / max(1, len(values) - len(groups))
    low, high = _pseudo_t(groups, 2 * min(1.0, alike) / len(groups), -largest, largest, confidence)
    return max(low, -TOP), min(high, TOP)


def _pseudo_t(groups: Sequence[Floats], pseudo: float, low: float, high: float, confidence: float) -> Interval:
    """t interval after pseudo-samples of weight `pseudo` per group, half of it at either bound."""
    means, variances, freedom = [], [], []
    for group in groups:
        n = len(group)
        weight = n + pseudo
        mean = (group.sum() + pseudo * (low + high) / 2) / weight
        squares = ((group - mean) ** 2).sum() + pseudo * ((low - mean) ** 2 + (high - mean) ** 2) / 2
        means.append(mean)
        variances.append(squares / weight / weight)
        freedom.append(weight - 1)
    v = np.array(variances)
    total = float(v.sum())
    observed = float(np.mean([group.mean() for group in groups]))
    if total == 0:
        return observed, observed
    df = total**2 / float((v**2 / np.array(freedom)).sum())
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * total**0.5 / len(groups)
    centre = float(np.mean(means))
    return min(centre - half, observed), max(centre + half, observed)


@dataclass(frozen=True)
class Resamples:
    """How often each sample occurs in each resample."""

    weights: Floats  # [RESAMPLES, samples], rows add up to 1

    @classmethod
    def draw(cls, samples: int, seed: int) -> Resamples:
        """Counts of each sample, multinomial."""
        counts = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=RESAMPLES)
        return cls(counts / samples)

    def means(self, scores: Floats) -> Floats:
        """Means [RESAMPLES, ...] of scores [..., samples]."""
        return np.asarray(np.moveaxis(scores @ self.weights.T, -1, 0), dtype=np.float64)


def estimate(scores: Floats, resampled: Floats) -> dict[str, float]:
    """Mean of scores [samples]; with two samples or more also the interval of its resampled means [RESAMPLES]."""
    mean = {"score": float(scores.mean())}
    return mean | interval(resampled) if scores.size > 1 else mean


def interval(resampled: Floats) -> dict[str, float]:
    """The two quantiles between which CONFIDENCE of the resampled means [RESAMPLES] lie."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return {"low": float(low), "high": float(high)}
