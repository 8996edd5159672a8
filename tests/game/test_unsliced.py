"""Estimators without slices: permutations, strata of all sizes, and leave-one-out."""

from __future__ import annotations

import numpy as np
import pytest
from worlds.toy import dictator, interactions, substitutes

from cokv.game.estimators import ComplementaryContributions, LeaveOneOut, PermutationSampling
from cokv.game.plan import evaluate, merge_plans

EIGHT = interactions(8, seed=1)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_complementary_contributions_fully_drawn_are_the_shapley_value(n):
    game = interactions(n, seed=4) if n > 1 else dictator(1, 0)
    estimate = ComplementaryContributions(10_000).estimate(game, n, seed=0)
    np.testing.assert_allclose(estimate.values, game.shapley, atol=1e-12)
    assert estimate.evaluations == 2**n


def test_leave_one_out_is_the_loss_without_each_player():
    np.testing.assert_allclose(LeaveOneOut().estimate(dictator(4, 1), 4, seed=0).values, [0, 1, 0, 0])
    assert not LeaveOneOut().estimate(substitutes(4, [0, 1]), 4, seed=0).values.any(), "substitutes hide each other"


def test_every_permutation_estimate_shares_out_exactly_what_all_players_add():
    values = PermutationSampling(3).estimate(EIGHT, 8, seed=5).values
    assert values.sum() == pytest.approx(EIGHT.shapley.sum(), abs=1e-12)


def test_antithetic_orders_are_exact_on_pairwise_interactions():
    game = interactions(10, seed=2, largest=2)
    plain = PermutationSampling(2).estimate(game, 10, seed=0).values
    paired = PermutationSampling(2, antithetic=True).estimate(game, 10, seed=0).values
    np.testing.assert_allclose(paired, game.shapley, atol=1e-12)
    assert np.abs(plain - game.shapley).max() > 1e-3


def test_merged_runs_read_as_one():
    estimator = PermutationSampling(4)
    plans = [estimator.plan(8, seed) for seed in (0, 1)]
    merged = merge_plans(plans)
    assert merged.num_draws == 8
    both = estimator.aggregate(merged, evaluate(EIGHT, merged.coalitions)).values
    np.testing.assert_allclose(both, np.mean([estimator.estimate(EIGHT, 8, s).values for s in (0, 1)], axis=0))


def test_one_order_leaves_the_standard_error_unknown():
    assert np.isnan(PermutationSampling(1).estimate(EIGHT, 8, seed=0).standard_error).all()
