"""95 % percentile bootstrap intervals of means over samples (Efron & Tibshirani 1993, ch. 13).

One set of resamples serves all that is measured on the same samples, so that comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE = 0.95

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resamples:
    """How often each sample occurs in each resample.

    Two ways to draw from the same distribution, kept so that recorded intervals stay reproducible: `draw` those of the
    head experiments, `draw_indices` those of metrics.json.
    """

    weights: Floats  # [RESAMPLES, samples], rows add up to 1

    @classmethod
    def draw(cls, samples: int, seed: int) -> Resamples:
        """Counts of each sample, multinomial."""
        counts = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=RESAMPLES)
        return cls(counts / samples)

    @classmethod
    def draw_indices(cls, samples: int, seed: int | Sequence[int]) -> Resamples:
        """Indices of samples, uniform."""
        indices = np.random.default_rng(seed).integers(0, samples, size=(RESAMPLES, samples))
        flat = (indices + samples * np.arange(RESAMPLES)[:, None]).ravel()
        return cls(np.bincount(flat, minlength=RESAMPLES * samples).reshape(RESAMPLES, samples) / samples)

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
