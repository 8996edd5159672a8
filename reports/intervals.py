"""95 % intervals that hold for few samples: of mean scores, of paired differences, of shares of the full score.

One method for all: add two pseudo-samples, one at each end of what could have happened, spread evenly over the groups,
then take the t interval of the mean over groups, every group weighted alike, with Welch and Satterthwaite's degrees of
freedom. Of one group of scores that are 0 or 1 it is Agresti & Coull's (1998) idea with t in place of z; of pairs that
are won, lost or tied it is Bonett & Price's (2012). The ends are

    scores            0 and 100
    differences       plus and minus the largest one seen, 100 where none is seen
    shares            a pair in which only the part scores and one in which only the whole does, at the largest score
                      seen; found as by Fieller (1954): all shares r for which the mean of part - r * whole may be 0

Without pseudo-samples the interval has no width where all samples score alike, as that of the bootstrap has none.
benchmarks/interval_coverage.py simulates the coverage: at least 93.8 % of every kind from six samples per group on; of
three samples, 99 % for scores and 91.5 % for a single difference without ties.

Shapes: a group is [..., n], n >= 2 samples of one task in percent; leading axes are independent repetitions.

Does not know: samples that are not independent (one question under several seeds is one sample, reports/questions.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

CONFIDENCE = 0.95
METHOD = "t interval with two pseudo-samples"
TOP = 100.0  # scores are percentages
PSEUDO = 2.0  # weight of all pseudo-samples together
RESAMPLES = 2000  # of a bootstrap over heads

Floats = npt.NDArray[np.float64]
Interval = tuple[Floats, Floats]


def average_interval(groups: Sequence[Floats], confidence: float = CONFIDENCE) -> Interval:
    """Of the mean over groups of their mean scores. One group: of its mean."""
    low, high = _t_interval(groups, 0.0, TOP, confidence)
    return np.clip(low, 0.0, TOP), np.clip(high, 0.0, TOP)


def difference_interval(groups: Sequence[Floats], confidence: float = CONFIDENCE) -> Interval:
    """Of the mean over groups of their mean paired differences."""
    largest = _largest([np.abs(group) for group in groups])
    low, high = _t_interval(groups, -largest, largest, confidence)
    return np.clip(low, -TOP, TOP), np.clip(high, -TOP, TOP)


def share_interval(parts: Sequence[Floats], wholes: Sequence[Floats], confidence: float = CONFIDENCE) -> Interval:
    """Of the mean of `parts` divided by that of `wholes`, paired; both are means over groups. 1: as much.

    The upper end is infinite where the whole may be 0.
    """
    part, whole = _mean(parts), _mean(wholes)
    seen = np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)

    def outside(share: Floats) -> npt.NDArray[np.bool_]:
        return np.asarray(share_p(parts, wholes, share) < 1 - confidence)

    zero, most = np.zeros_like(seen), np.full_like(seen, MOST)
    low = np.where(outside(zero), _edge(outside, zero, seen), 0.0)
    high = np.where(outside(most), _edge(outside, most, seen), np.inf)
    return low, np.where(whole > 0, high, np.inf)


def share_p(parts: Sequence[Floats], wholes: Sequence[Floats], share: Floats | float) -> Floats:
    """Two-sided p-value [...] of the mean of `parts` being `share` times that of `wholes`."""
    share = np.asarray(share, dtype=np.float64)
    largest = _largest([*parts, *wholes])
    gaps = [part - share[..., None] * whole for part, whole in zip(parts, wholes, strict=True)]
    centre, error, freedom = _fit(gaps, -share * largest, largest)
    p = 2 * special.stdtr(freedom, -np.abs(centre) / error)
    return np.where(_mean(gaps) == 0, 1.0, p)


MOST = 1000.0  # a share above it counts as infinite
STEPS = 50  # of a bisection


def _edge(outside: Callable[[Floats], npt.NDArray[np.bool_]], start: Floats, end: Floats) -> Floats:
    """Between a share outside the interval and one inside: where it begins."""
    for _ in range(STEPS):
        middle = (start + end) / 2
        out = outside(middle)
        start, end = np.where(out, middle, start), np.where(out, end, middle)
    return end


def _t_interval(groups: Sequence[Floats], bottom: Floats | float, top: Floats | float, confidence: float) -> Interval:
    centre, error, freedom = _fit(groups, bottom, top)
    half, seen = special.stdtrit(freedom, (1 + confidence) / 2) * error, _mean(groups)
    return np.minimum(centre - half, seen), np.maximum(centre + half, seen)  # what is seen is possible


def _fit(groups: Sequence[Floats], bottom: Floats | float, top: Floats | float) -> tuple[Floats, Floats, Floats]:
    """Mean over groups, its standard error and degrees of freedom [...], after pseudo-samples at `bottom` and `top`
    [...], of which every group has the same weight.
    """
    each = PSEUDO / len(groups) / 2
    means, variances, freedom = [], [], []
    for group in groups:
        weight = group.shape[-1] + 2 * each
        mean = (group.sum(axis=-1) + each * (bottom + top)) / weight
        squares = ((group - mean[..., None]) ** 2).sum(axis=-1)
        squares = squares + each * ((bottom - mean) ** 2 + (top - mean) ** 2)
        means.append(mean)
        variances.append(squares / (weight * (weight - 1)))
        freedom.append(variances[-1] ** 2 / (weight - 1))
    variance = np.sum(variances, axis=0)
    error = np.sqrt(variance) / len(groups)
    return np.mean(means, axis=0), error, variance**2 / np.sum(freedom, axis=0)


def _mean(groups: Sequence[Floats]) -> Floats:
    return np.asarray(sum(group.mean(axis=-1) for group in groups) / len(groups))


def _largest(groups: Sequence[Floats]) -> Floats:
    """Largest value of all groups [...], TOP where all are 0."""
    largest = np.max([group.max(axis=-1) for group in groups], axis=0)
    return np.asarray(np.where(largest > 0, largest, TOP))


def estimate(groups: Sequence[Floats], paired: bool = False) -> dict[str, float]:
    """score: mean over groups of their means, of scores or of paired differences; with two samples or more in each
    group also low and high.
    """
    score = {"score": float(_mean(groups))}
    if min(group.shape[-1] for group in groups) < 2:
        return score
    low, high = (difference_interval if paired else average_interval)(groups)
    return score | {"low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Resamples:
    """A percentile bootstrap over the heads of a model: how often each occurs in each resample."""

    weights: Floats  # [RESAMPLES, heads], rows add up to 1

    @classmethod
    def draw(cls, heads: int, seed: int) -> Resamples:
        """Counts of each head, multinomial."""
        counts = np.random.default_rng(seed).multinomial(heads, np.full(heads, 1 / heads), size=RESAMPLES)
        return cls(counts / heads)

    def means(self, values: Floats) -> Floats:
        """Means [RESAMPLES, ...] of values [..., heads]."""
        return np.asarray(np.moveaxis(values @ self.weights.T, -1, 0), dtype=np.float64)


def bootstrap_p(resampled: Floats, value: float) -> float:
    """Two-sided p-value of `value` among resampled ones: no smaller than their number allows."""
    beyond = min(np.count_nonzero(resampled <= value), np.count_nonzero(resampled >= value))
    return float(min(1.0, 2 * (1 + beyond) / (1 + len(resampled))))


def interval(resampled: Floats) -> dict[str, float]:
    """The two quantiles between which CONFIDENCE of the resampled values [RESAMPLES] lie."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return {"low": float(low), "high": float(high)}
