"""Stability measures tell signal from noise, and say nothing where there is nothing to say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from worlds.toy import additive, interactions, majority

from cokv.game.estimators import LeaveOneOut, PermutationSampling, SlicedShapley
from cokv.game.exact import exact_sliced_shapley
from cokv.game.plan import evaluate
from cokv.game.stability import (
    assess,
    bootstrap_interval,
    mean_absolute_error,
    spearman,
    split_half_reliability,
)
from cokv.types import CokvError

N = 12
GAME = interactions(N, seed=5)
ESTIMATOR = SlicedShapley((3, 6), 80)


def run(estimator, game, seed, n=N):
    plan = estimator.plan(n, seed)
    return plan, evaluate(game, plan.coalitions)


def two_runs(estimator, game, n=N):
    (plan_a, values_a), (plan_b, values_b) = run(estimator, game, 0, n), run(estimator, game, 1, n)
    return assess(estimator, (plan_a, plan_b), (values_a, values_b), seed=0, resamples=200)


def noise(coalitions):
    """No player matters: a fixed but arbitrary utility per coalition."""
    return np.array([np.random.default_rng(list(row.tobytes())).uniform() for row in coalitions])


def test_two_runs_on_a_real_game_agree():
    report = two_runs(ESTIMATOR, GAME)
    assert report.mae < report.threshold == pytest.approx(1 / N)
    assert report.stop
    assert report.spearman > 0.7
    assert report.split_half > 0.7


def test_small_mae_does_not_certify_noise():
    """The stop rule is met although no player matters: the measures of order say so."""
    report = two_runs(SlicedShapley((6,), 300), noise)
    assert report.stop
    assert report.spearman < 0.7
    assert report.split_half < 0.5


def test_split_half_reliability_predicts_the_agreement_of_two_runs():
    estimator = SlicedShapley((3, 6), 40)
    agreement, predicted = [], []
    for seed in range(20):
        plan, utilities = run(estimator, GAME, seed)
        other = estimator.aggregate(*run(estimator, GAME, seed + 100)).values
        agreement.append(np.corrcoef(estimator.aggregate(plan, utilities).values, other)[0, 1])
        predicted.append(split_half_reliability(estimator, plan, utilities, seed=0, splits=40))
    assert np.mean(predicted) == pytest.approx(np.mean(agreement), abs=0.08)


@pytest.mark.parametrize("estimator", [ESTIMATOR, PermutationSampling(60)], ids=["sliced", "permutation"])
def test_the_bootstrap_interval_covers_the_true_value_about_as_often_as_it_says(estimator):
    truth = exact_sliced_shapley(GAME, N, (3, 6)) if isinstance(estimator, SlicedShapley) else GAME.shapley
    below, above = [], []
    for seed in range(40):
        plan, utilities = run(estimator, GAME, seed)
        low, high = bootstrap_interval(estimator, plan, utilities, seed=seed, resamples=200, level=0.8).T
        below.append(truth < low)
        above.append(truth > high)
    assert 0.03 < np.mean(below) < 0.15 and 0.03 < np.mean(above) < 0.15, "a tenth should fall out on either side"


def test_the_interval_is_seeded_and_narrows_with_draws():
    plan, utilities = run(ESTIMATOR, GAME, 0)
    first = bootstrap_interval(ESTIMATOR, plan, utilities, seed=1, resamples=100)
    np.testing.assert_array_equal(first, bootstrap_interval(ESTIMATOR, plan, utilities, seed=1, resamples=100))
    assert not np.array_equal(first, bootstrap_interval(ESTIMATOR, plan, utilities, seed=2, resamples=100))
    few = SlicedShapley((3, 6), 10)
    wide = bootstrap_interval(few, *run(few, GAME, 0), seed=1, resamples=100)
    assert np.nanmean(np.ptp(wide, axis=1)) > 1.5 * np.mean(np.ptp(first, axis=1))


def test_mae_is_the_mean_distance():
    assert mean_absolute_error(np.array([0.0, 1.0]), np.array([0.5, 0.5])) == 0.5
    with pytest.raises(CokvError, match="same players"):
        mean_absolute_error(np.zeros(2), np.zeros(3))


def test_spearman_looks_at_order_only():
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([0.1, 10.0, 1000.0])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)


def test_what_is_undefined_is_none_not_zero():
    report = two_runs(SlicedShapley((2, 3), 30), majority(6), n=6)  # all alike: no order to correlate
    assert report.spearman is None
    assert report.split_half is None
    assert report.mae == pytest.approx(0.0, abs=1e-12)


def test_a_percent_utility_has_a_percent_threshold():
    plans, utilities = zip(*(run(ESTIMATOR, GAME, seed) for seed in (0, 1)), strict=True)
    report = assess(ESTIMATOR, plans, utilities, seed=0, resamples=10, utility_range=100.0)
    assert report.threshold == pytest.approx(100 / N)


def test_the_same_run_twice_is_no_evidence():
    plan, utilities = run(LeaveOneOut(), additive([1.0, 2.0, 3.0]), 0, n=3)
    with pytest.raises(CokvError, match="two independent seeds"):
        assess(LeaveOneOut(), (plan, plan), (utilities, utilities), seed=0)


def test_the_report_is_json():
    report = json.loads(json.dumps(two_runs(ESTIMATOR, GAME).to_json(), allow_nan=False))
    assert report["num_players"] == N and len(report["interval"]) == N and report["stop"] is True
    assert all(low <= high for low, high in report["interval"])
