"""How far head scores can be trusted: two independent runs against each other, and each player's own interval.

CoKV (arXiv 2502.17501 and its README) stops when the mean absolute error between two independent runs falls below
1/n, for utilities between 0 and 1. That rule can be met by noise: at large coalitions the spread *between* players
is itself below 1/n. So it is reported with measures of order: Spearman's correlation of the runs, the split-half
reliability of all draws (Spearman-Brown; of the two runs, where draws depend on each other), and a bootstrap interval
per player. Nothing here evaluates a game.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from cokv.game.plan import Estimator, Plan, json_numbers, merge_plans
from cokv.types import JSON, CokvError, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Stability:
    """How far two runs agree. None where the draws do not define a measure."""

    num_players: int
    mae: float  # mean over players of |run A - run B|, in the unit of the scores
    threshold: float  # utility_range / n
    spearman: float | None  # between the two runs
    split_half: float | None  # expected correlation of all draws with as many new ones
    interval: FloatArray  # [num_players, 2] bootstrap, both runs pooled; NaN where undefined
    level: float  # coverage the interval aims at

    @property
    def stop(self) -> bool:
        """The paper's rule: MAE < 1/n."""
        return self.mae < self.threshold

    def to_json(self) -> dict[str, JSON]:
        return {
            "num_players": self.num_players,
            "mae": self.mae,
            "threshold": self.threshold,
            "stop": self.stop,
            "spearman": self.spearman,
            "split_half": self.split_half,
            "interval": [json_numbers(bounds) for bounds in self.interval],
            "level": self.level,
        }


def assess(
    estimator: Estimator,
    plans: tuple[Plan, Plan],
    utilities: tuple[FloatArray, FloatArray],
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    utility_range: float = 1.0,
) -> Stability:
    """Compare two independent runs, and judge their draws together. `utility_range`: 1 for utilities in 0..1, 100
    for percent.
    """
    if np.array_equal(plans[0].coalitions, plans[1].coalitions):
        raise CokvError("both runs evaluate the same coalitions in the same order, expected two independent seeds")
    first, second = (estimator.aggregate(plan, values).values for plan, values in zip(plans, utilities, strict=True))
    pooled_plan, pooled = merge_plans(plans), np.concatenate(utilities)
    if estimator.independent_draws:
        reliability = split_half_reliability(estimator, pooled_plan, pooled, seed)
    else:
        reliability = two_run_reliability(first, second)
    return Stability(
        num_players=pooled_plan.num_players,
        mae=mean_absolute_error(first, second),
        threshold=utility_range / pooled_plan.num_players,
        spearman=spearman(first, second),
        split_half=reliability,
        interval=bootstrap_interval(estimator, pooled_plan, pooled, seed, resamples, level),
        level=level,
    )


def mean_absolute_error(first: FloatArray, second: FloatArray) -> float:
    """Mean over players of |first - second|."""
    if first.shape != second.shape:
        raise CokvError(f"scores of shapes {first.shape} and {second.shape}, expected the same players in both runs")
    return float(np.mean(np.abs(first - second)))


def spearman(first: FloatArray, second: FloatArray) -> float | None:
    """Rank correlation, None where one side is constant and has no order."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


def split_half_reliability(
    estimator: Estimator, plan: Plan, utilities: FloatArray, seed: int, splits: int = 100
) -> float | None:
    """Correlation of two random halves of the draws, stepped up to full length by Spearman-Brown, 2r / (1 + r).

    Halves are made within each stratum; r is the mean of Pearson's correlation over `splits` halvings, over the
    players that both halves drew. None where no halving defines a correlation. A mean r below 0 is returned as it is.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    halves = halves_of_draws(plan, generator, splits)
    first = estimator.resample(plan, utilities, halves)
    second = estimator.resample(plan, utilities, 1.0 - halves)
    correlations = []
    for left, right in zip(first, second, strict=True):
        in_both = np.isfinite(left) & np.isfinite(right)
        if in_both.sum() > 2 and np.ptp(left[in_both]) > 0 and np.ptp(right[in_both]) > 0:
            correlations.append(np.corrcoef(left[in_both], right[in_both])[0, 1])
    if not correlations:
        return None
    return stepped_up(float(np.mean(correlations)))


def halves_of_draws(plan: Plan, generator: np.random.Generator, splits: int) -> FloatArray:
    """Weights [splits, num_draws]: 1 for a random half of the draws of each stratum, 0 for the others."""
    halves = np.zeros((splits, plan.num_draws))
    for draws in draws_by_stratum(plan):
        for row in halves:
            row[generator.permutation(draws)[: (len(draws) + int(generator.integers(2))) // 2]] = 1.0
    return halves


def two_run_reliability(first: FloatArray, second: FloatArray) -> float | None:
    """The same from the scores of two independent runs, for draws that depend on each other within a run. One halving
    instead of many, hence less exact; None where a run has no spread.
    """
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return stepped_up(float(np.corrcoef(first, second)[0, 1]))


def stepped_up(correlation: float) -> float:
    """Spearman-Brown: from half the draws to all of them."""
    return 2.0 * correlation / (1.0 + correlation) if correlation > 0 else correlation


def bootstrap_interval(
    estimator: Estimator, plan: Plan, utilities: FloatArray, seed: int, resamples: int = 1000, level: float = 0.95
) -> FloatArray:
    """Percentile interval per player [n, 2], from resampling draws with replacement within each stratum.

    A resample without any draw of a player is not counted for that player. Too wide, by 1 / sqrt(1 - f), where the
    draws are a large share f of all coalitions of a size: they are drawn without repetition, resamples are not.
    Too wide for balanced draws too, two to four times on the games of benchmarks/estimators.py; not with the linear
    part taken out (cokv.game.adjusted).
    """
    if not 0.0 < level < 1.0 or resamples < 1:
        raise CokvError(
            f"level = {level}, resamples = {resamples}, expected a level between 0 and 1 and at least 1 resample"
        )
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    weights = np.zeros((resamples, plan.num_draws))
    for draws in draws_by_stratum(plan):
        weights[:, draws] = generator.multinomial(len(draws), np.full(len(draws), 1.0 / len(draws)), size=resamples)
    values = estimator.resample(plan, utilities, weights)
    interval = np.full((plan.num_players, 2), np.nan)
    for player in range(plan.num_players):
        defined = values[np.isfinite(values[:, player]), player]
        if defined.size:
            interval[player] = np.quantile(defined, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return interval


def draws_by_stratum(plan: Plan) -> list[IntArray]:
    """Draws of one size and stage, which are resampled among themselves."""
    kinds = np.stack([plan.stratum, plan.stage], axis=1)
    return [np.unique(plan.draw[(kinds == kind).all(axis=1)]) for kind in np.unique(kinds, axis=0)]
