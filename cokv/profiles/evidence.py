"""What a profile rests on: numbers that cokv/methods/profile_rules.py judges it by."""

from __future__ import annotations

import numpy as np

from cokv.types import FloatArray

HALVINGS = 20


def reliability(samples: FloatArray, seed: int = 0) -> float | None:
    """Expected correlation of the mean over samples [n, ...] with that over n new ones.

    The mean over random halvings of Pearson's correlation between the halves, stepped up to all samples by
    Spearman-Brown, 2r / (1 + r); a mean below 0 is returned as it is. A halving in which one half is constant counts as
    0: it shows no order. None for fewer than two samples, or a single head.
    """
    flat = samples.reshape(len(samples), -1)
    if len(flat) < 2 or flat.shape[1] < 2:
        return None
    generator = np.random.default_rng(seed)
    correlations = []
    for _ in range(HALVINGS):
        order = generator.permutation(len(flat))
        first, second = flat[order[: len(flat) // 2]].mean(axis=0), flat[order[len(flat) // 2 :]].mean(axis=0)
        defined = np.ptp(first) > 0 and np.ptp(second) > 0
        correlations.append(np.corrcoef(first, second)[0, 1] if defined else 0.0)
    mean = float(np.mean(correlations))
    return 2 * mean / (1 + mean) if mean > 0 else mean
