"""Means over samples, then over tasks, with paired bootstrap intervals: one set of resamples for all comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cokv.types import FloatArray
from reports.intervals import Resamples, interval


class Pooled:
    """Resamples of each task's samples, drawn once: every task has the same weight, whatever its number of samples."""

    def __init__(self, samples: Mapping[str, int], seed: int) -> None:
        self.samples = dict(samples)
        self.resamples = {task: Resamples.draw(n, seed + place) for place, (task, n) in enumerate(samples.items())}

    @property
    def total(self) -> int:
        return sum(self.samples.values())

    def means(self, scores: Mapping[str, FloatArray]) -> tuple[float, FloatArray]:
        """Mean, and resampled means [RESAMPLES], of scores [samples] by task."""
        resampled = [self.resamples[task].means(np.asarray(scores[task])) for task in self.samples]
        return float(np.mean([np.mean(scores[task]) for task in self.samples])), np.mean(resampled, axis=0)

    def estimate(self, scores: Mapping[str, FloatArray]) -> dict[str, float]:
        mean, resampled = self.means(scores)
        return {"score": mean, **interval(resampled)}

    def difference(self, scores: Mapping[str, FloatArray], base: Mapping[str, FloatArray]) -> dict[str, float]:
        """Of scores and base, with `differing`: how many samples have another score."""
        gaps = {task: np.asarray(scores[task]) - np.asarray(base[task]) for task in self.samples}
        return {**self.estimate(gaps), "differing": sum(int(np.count_nonzero(gap)) for gap in gaps.values())}

    def share(self, scores: Mapping[str, FloatArray], whole: Mapping[str, FloatArray]) -> dict[str, float]:
        """scores as percent of `whole`; empty where the whole, or nearly every resample of it, is 0."""
        (part, parts), (full, fulls) = self.means(scores), self.means(whole)
        defined = fulls > 0
        if full <= 0 or defined.mean() < 0.99:
            return {}
        return {"score": 100 * part / full, **interval(100 * parts[defined] / fulls[defined])}


def by_task(scores: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Each task's mean, for a record."""
    return {task: float(np.mean(values)) for task, values in scores.items()}
