"""SSV with the linear part of the game fitted: only what a sum over members does not explain is sampled.

Contributions are nearly sums over members. Let g(S) = sum over k of b(k) * (1 if k is in S, else -1). The mean of g
over all S of size j that hold player i is known without drawing anything,

    G(i, j) = b(i) + (2 (j - 1) / (n - 1) - 1) * (sum of b - b(i)),

so C(i, j) (see cokv.game.sliced) is G(i, j) plus the mean of the residual c(S) - g(S) over drawn coalitions that hold
i: a control variate. The estimate is unbiased for any b that is not fitted to the same draws. So draws come in two
folds, independent of each other; each fold's residuals use the b fitted to the other fold (ridge, its strength by
generalized cross-validation), and the two estimates are averaged.

The smaller the residuals, the fewer draws: on a game that is a sum of its members, none but those that fit b. With
about as many draws in a fold as players, b is poor and nothing is gained. Regression as variance reduction for Shapley
values: Witter, Liu and Musco, "Regression-adjusted Monte Carlo Estimators for Shapley Values and Probabilistic Values",
NeurIPS 2025 (arXiv 2506.11849).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cokv.game.draws import Draws, checked_draws, complementary_plan
from cokv.game.plan import BoolArray, Estimate, Estimator, Plan, alternating_rows, checked_utilities, merge_plans
from cokv.game.strata import Stratum, aggregated, checked_sizes, combined, strata_of, weighted
from cokv.types import CokvError, FloatArray

FOLDS = 2


@dataclass(frozen=True)
class AdjustedSlicedShapley(Estimator):
    """SSV as its paper aggregates it, over `slice_sizes`, from `coalitions_per_size` coalitions of each, half of them
    in each fold. The folds are the stages of its plan.
    """

    slice_sizes: tuple[int, ...]
    coalitions_per_size: int
    draws: Draws = "balanced"

    def __post_init__(self) -> None:
        object.__setattr__(self, "slice_sizes", checked_sizes(self.slice_sizes))
        checked_draws(self.draws)
        if self.coalitions_per_size < FOLDS or self.coalitions_per_size % FOLDS:
            raise CokvError(f"coalitions_per_size = {self.coalitions_per_size}, expected an even number: two folds")

    @property
    def independent_draws(self) -> bool:
        return self.draws == "independent"

    def plan(self, num_players: int, seed: int) -> Plan:
        counts = dict.fromkeys(self.slice_sizes, self.coalitions_per_size // FOLDS)
        folds = [
            complementary_plan(num_players, seed, counts, self.draws, self.slice_sizes, stage) for stage in range(FOLDS)
        ]
        return interleaved(folds)

    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        estimates = []
        for fold, strata, linear in self._folds(plan, utilities):
            residual = aggregated(fold, strata, scale=1)
            estimates.append(replace(residual, values=residual.values + linear))
        return combined(plan, estimates, np.full(FOLDS, 1 / FOLDS))

    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        """As of every estimator; b stays fitted to all draws."""
        parts = [linear + weighted(strata, weights)[0] for _, strata, linear in self._folds(plan, utilities)]
        return np.asarray(np.mean(parts, axis=0))

    def _folds(self, plan: Plan, utilities: FloatArray) -> Iterator[tuple[Plan, list[Stratum], FloatArray]]:
        """Of each fold: its rows, the residuals c - g by size, and the mean of G over sizes [n]."""
        values = checked_utilities(utilities, len(plan.coalitions))
        if set(plan.stage) != set(range(FOLDS)):
            raise CokvError(f"plan has stages {sorted(set(plan.stage.tolist()))}, expected two folds, 0 and 1")
        for fold in range(FOLDS):
            in_fold = plan.stage == fold
            members, contributions = _pairs(plan, values, ~in_fold)
            worth = fit_members(members, contributions)
            residual = values[in_fold] - _sides(plan.coalitions[in_fold]) @ worth / 2.0
            rows = Plan(plan.coalitions[in_fold], plan.stratum[in_fold], plan.draw[in_fold], plan.stage[in_fold])
            yield rows, strata_of(rows, residual, self.slice_sizes, mirror=True), mean_of_sum(worth, self.slice_sizes)


def interleaved(plans: list[Plan]) -> Plan:
    """One plan of several, their draws in turn."""
    merged, rows = merge_plans(plans), alternating_rows(plans)
    draws = np.unique(merged.draw[rows], return_index=True, return_inverse=True)
    turn = np.argsort(np.argsort(draws[1]))[draws[2]]  # draws numbered by their first row
    return Plan(merged.coalitions[rows], merged.stratum[rows], turn, merged.stage[rows])


def mean_of_sum(worth: FloatArray, slice_sizes: tuple[int, ...]) -> FloatArray:
    """Mean of G(i, j) over the sizes j, for every player i: [n]."""
    n = len(worth)
    share = np.mean([2.0 * (size - 1) / max(n - 1, 1) - 1.0 for size in slice_sizes])
    return np.asarray(worth + share * (worth.sum() - worth))


def fit_members(members: BoolArray, contributions: FloatArray) -> FloatArray:
    """b [n] of g, from coalitions [R, n] and their complementary contributions [R]; each size has a level of its own.

    Ridge regression. Its strength is the one of a fixed grid with the least generalized cross-validation error.
    """
    sides, response = _sides(members), contributions.astype(np.float64)
    sizes, n = members.sum(axis=1), members.shape[1]
    levels = 0
    for size in np.unique(sizes):
        if 2 * size != n:  # at n/2 a pair's sides are of one size: its level has no sign and is 0
            rows = sizes == size
            sides[rows] -= sides[rows].mean(axis=0)
            response[rows] -= response[rows].mean()
            levels += 1
    left, scale, right = np.linalg.svd(sides, full_matrices=False)
    along = left.T @ response
    outside = float(response @ response - along @ along)
    best, worth = np.inf, np.zeros(n)
    for strength in np.geomspace(1e-4, 1e4, 33) * max(float(np.mean(scale**2)), 1e-12):
        shrunk = scale**2 / (scale**2 + strength)
        freedom = 1.0 - (float(shrunk.sum()) + levels) / len(response)
        if freedom <= 0.0:
            continue
        error = (outside + float(np.sum(((1.0 - shrunk) * along) ** 2))) / freedom**2
        if error < best:
            best, worth = error, right.T @ (scale / (scale**2 + strength) * along)
    return worth


def _sides(coalitions: BoolArray) -> FloatArray:
    return np.where(coalitions, 1.0, -1.0)


def _pairs(plan: Plan, values: FloatArray, rows: BoolArray) -> tuple[BoolArray, FloatArray]:
    members, worth = plan.coalitions[rows], values[rows]
    return members[0::2], worth[0::2] - worth[1::2]
