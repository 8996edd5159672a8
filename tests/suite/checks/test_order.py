"""Agreement of two games' rankings: 1 for one ranking under noise, low for another, and no answer without an order."""

import numpy as np
import pytest

from cokv.game.estimators import ComplementaryContributions, SlicedShapley
from suite.checks.order import TwoRuns, agreement, rank_correlation
from suite.checks.rules import judged_order

N = 24
WORTH = np.linspace(0, 1, N) ** 2 / 8


def runs(worth, noise=0.0, estimator=None, seeds=(0, 1), noise_seed=0) -> TwoRuns:
    """Two runs of an additive game with these worths; the noise is of the coalition, as a prompt's is not."""
    method = estimator or SlicedShapley((6, 12), 40)
    plans = tuple(method.plan(N, seed) for seed in seeds)
    rng = np.random.default_rng(noise_seed)
    utilities = tuple(plan.coalitions @ worth + noise * rng.normal(size=len(plan.coalitions)) for plan in plans)
    return TwoRuns(method, plans, utilities)


def test_one_ranking_under_noise_agrees_with_itself():
    result = agreement(runs(WORTH, 0.05, noise_seed=1), runs(WORTH, 0.05, noise_seed=2), seed=0)
    assert result["low"] < 1 < result["high"] and result["low"] > 0.8 and result["within"] < 0.98
    assert judged_order(result, N)["verdict"] == "holds"


def test_another_ranking_does_not_agree():
    result = agreement(runs(WORTH), runs(WORTH[::-1]), seed=0)
    assert result["score"] < -0.8 and judged_order(result, N)["verdict"] == "does not hold"


def test_noise_alone_is_undecided():
    result = agreement(runs(0 * WORTH, 0.1, noise_seed=1), runs(0 * WORTH, 0.1, noise_seed=2), seed=0)
    assert judged_order(result, N)["verdict"] == "undecided"


def test_all_sizes_rank_an_additive_game_as_two_do():
    reference = runs(WORTH, 0.0, ComplementaryContributions(12), seeds=(7, 8))
    result = agreement(runs(WORTH), reference, seed=0, shared=False)
    assert judged_order(result, N)["verdict"] == "holds"


def test_equal_utilities_have_no_order():
    assert judged_order(agreement(runs(0 * WORTH), runs(WORTH), seed=0), N)["verdict"] == "undecided"


def test_rank_correlation_is_spearmans():
    from scipy import stats

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, N)).round(1), rng.normal(size=(5, N)).round(1)
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b) == pytest.approx(expected)
    a[0, 0] = np.nan
    assert np.isnan(rank_correlation(a, b)[0]) and np.isnan(rank_correlation(np.ones((1, N)), b[:1])[0])


def test_a_seed_gives_one_interval():
    one, other = (agreement(runs(WORTH, 0.05), runs(WORTH, 0.1), seed=3) for _ in range(2))
    assert one == other and one != agreement(runs(WORTH, 0.05), runs(WORTH, 0.1), seed=4)
