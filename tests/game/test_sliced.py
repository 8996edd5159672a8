"""Sliced Shapley values: exact by full enumeration, both aggregations by hand, and what a plan draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from worlds.toy import dictator, interactions

from cokv.game.estimators import SlicedShapley
from cokv.game.exact import exact_shapley, exact_sliced_shapley
from cokv.game.plan import Plan, evaluate, merge_plans
from cokv.types import CokvError

EIGHT = interactions(8, seed=1)


def pairs(*members, n):
    """A hand-made plan: each coalition, given by its members, followed by its complement."""
    rows, sizes = [], []
    for group in members:
        row = np.zeros(n, dtype=bool)
        row[list(group)] = True
        rows += [row, ~row]
        sizes += [len(group)] * 2
    return Plan(np.array(rows), np.array(sizes), np.repeat(np.arange(len(members)), 2))


# three players; U({0}) = 0.5, U({1,2}) = 0.8, U({1}) = 0.1, U({0,2}) = 0.7, U({0,1}) = 0.4, U({2}) = 0.2
HAND = pairs([0], [1], [0, 1], n=3)
HAND_UTILITIES = np.array([0.5, 0.8, 0.1, 0.7, 0.4, 0.2])


# ---- what is estimated: full enumeration leaves no error


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_sliced_shapley_over_all_sizes_fully_enumerated_is_the_shapley_value(n):
    game = interactions(n, seed=n, num_terms=9) if n > 1 else dictator(1, 0)
    everything = [c for size in range(1, n + 1) for c in itertools.combinations(range(n), size)]
    plan = pairs(*everything, n=n)
    for aggregation, scale in (("paper", 1), ("official", n)):  # official sums over the n sizes
        estimator = SlicedShapley(tuple(range(1, n + 1)), 1, aggregation)
        estimate = estimator.aggregate(plan, evaluate(game, plan.coalitions))
        np.testing.assert_allclose(estimate.values, scale * exact_shapley(game, n), atol=1e-12)
        np.testing.assert_allclose(estimate.standard_error, 0.0, atol=1e-12)


@pytest.mark.parametrize("aggregation", ["paper", "official"])
@pytest.mark.parametrize("sizes", [(2,), (4,), (2, 4, 6), (1, 7, 8), tuple(range(1, 9))])
def test_drawing_every_coalition_of_the_slice_sizes_gives_the_exact_sliced_value(sizes, aggregation):
    estimate = SlicedShapley(sizes, 10_000, aggregation).estimate(EIGHT, 8, seed=0)
    scale = len(sizes) if aggregation == "official" else 1
    np.testing.assert_allclose(estimate.values, scale * exact_sliced_shapley(EIGHT, 8, sizes), atol=1e-12)
    np.testing.assert_allclose(estimate.standard_error, 0.0, atol=1e-12)


# ---- the aggregations, by hand


def test_paper_aggregation_by_hand():
    """c({0}) = -0.3, c({1}) = -0.6, c({0,1}) = 0.2, so c({1,2}) = 0.3, c({0,2}) = 0.6, c({2}) = -0.2.

    Size 1: -0.3, -0.6, -0.2.  Size 2: player 0 (0.2 + 0.6)/2, player 1 (0.2 + 0.3)/2, player 2 (0.3 + 0.6)/2.
    """
    estimate = SlicedShapley((1, 2), 2).aggregate(HAND, HAND_UTILITIES)
    np.testing.assert_allclose(estimate.values, [(-0.3 + 0.4) / 2, (-0.6 + 0.25) / 2, (-0.2 + 0.45) / 2], atol=1e-12)
    np.testing.assert_array_equal(estimate.counts, [3, 3, 3])
    np.testing.assert_array_equal(estimate.missing, [0, 0, 0])
    assert estimate.evaluations == 6


def test_official_aggregation_by_hand_sums_the_drawn_side_only():
    """Size 1: -0.3, -0.6, never for player 2.  Size 2: 0.2, 0.2, never for player 2, who is an error."""
    with pytest.raises(CokvError, match=r"player 2 is in no coalition of the slice sizes \[1, 2\] \(1 of 3"):
        SlicedShapley((1, 2), 2, "official").aggregate(HAND, HAND_UTILITIES)
    plan = merge_plans([HAND, pairs([2], [1, 2], n=3)])
    utilities = np.concatenate([HAND_UTILITIES, [0.2, 0.4, 0.8, 0.5]])
    estimate = SlicedShapley((1, 2), 2, "official").aggregate(plan, utilities)
    np.testing.assert_allclose(estimate.values, [-0.3 + 0.2, -0.6 + (0.2 + 0.3) / 2, -0.2 + 0.3], atol=1e-12)
    np.testing.assert_array_equal(estimate.counts, [2, 3, 2])


def test_the_mirrored_side_is_credited_at_the_size_it_has():
    """At sizes {1} of 3 players the mirrored side has size 2, so both aggregations see the same means."""
    plan = pairs([0], [1], [2], n=3)
    utilities = np.array([0.5, 0.8, 0.1, 0.7, 0.2, 0.4])
    for aggregation in ("paper", "official"):
        estimate = SlicedShapley((1,), 3, aggregation).aggregate(plan, utilities)
        np.testing.assert_allclose(estimate.values, [-0.3, -0.6, -0.2], atol=1e-12)


def test_at_half_of_the_players_both_sides_count():
    plan = pairs([0, 1], [0, 2], n=4)
    estimate = SlicedShapley((2,), 2).aggregate(plan, np.array([0.9, 0.1, 0.5, 0.3]))
    np.testing.assert_allclose(estimate.values, [(0.8 + 0.2) / 2, (0.8 - 0.2) / 2, (-0.8 + 0.2) / 2, (-0.8 - 0.2) / 2])


def test_a_player_missing_at_a_size_keeps_its_distance_and_is_reported():
    """Player 2 is never drawn at size 1, whose level is low: it must neither count as 0 nor profit from the gap."""
    plan = pairs([0], [1], [0, 1, 2], n=3)
    estimate = SlicedShapley((1, 3), 3, "official").aggregate(plan, np.array([0.1, 0.9, 0.3, 0.9, 1.0, 0.0]))
    np.testing.assert_array_equal(estimate.missing, [0, 0, 1])
    np.testing.assert_allclose(estimate.values, [-0.8 + 1.0, -0.6 + 1.0, -0.7 + 1.0], atol=1e-12)


def test_one_draw_leaves_the_standard_error_unknown():
    estimate = SlicedShapley((2,), 1).aggregate(pairs([0, 1], n=4), np.array([0.9, 0.1]))
    assert np.isnan(estimate.standard_error).all()
    assert estimate.to_json()["standard_error"] == [None] * 4


def test_a_coalition_recorded_twice_counts_once():
    plan = pairs([0, 1], [0, 2], [2, 3], n=5)
    utilities = np.array([0.7, 0.2, 0.1, 0.9, 0.3, 0.4])
    twice = merge_plans([plan, pairs([0, 1], n=5), pairs([2, 3, 4], n=5)])  # the last: a known complement
    recorded = np.array([*utilities, 0.7, 0.2, 0.2, 0.7])
    estimator = SlicedShapley((2, 3), 2)
    once, again = estimator.aggregate(plan, utilities), estimator.aggregate(twice, recorded)
    np.testing.assert_allclose(again.values, once.values, atol=1e-12)
    np.testing.assert_allclose(again.standard_error, once.standard_error, atol=1e-12)
    np.testing.assert_array_equal(again.counts, once.counts)


# ---- plans


def test_adding_a_slice_size_keeps_the_coalitions_of_the_others():
    few, more = SlicedShapley((3, 5), 9).plan(12, seed=2), SlicedShapley((2, 3, 5), 9).plan(12, seed=2)
    for size in (3, 5):
        np.testing.assert_array_equal(few.coalitions[few.stratum == size], more.coalitions[more.stratum == size])


def test_a_sliced_plan_draws_distinct_coalitions_of_the_stated_size_with_their_complements():
    plan = SlicedShapley((1, 4, 12), 30).plan(12, seed=0)
    drawn, complements = plan.coalitions[0::2], plan.coalitions[1::2]
    np.testing.assert_array_equal(drawn.sum(axis=1), plan.stratum[0::2])
    np.testing.assert_array_equal(complements, ~drawn)
    for size, count in ((1, 12), (4, 30), (12, 1)):  # of size 1 there are only 12, of size 12 only one
        rows = drawn[plan.stratum[0::2] == size]
        assert len(rows) == count == len(np.unique(rows, axis=0))


def test_every_player_is_drawn_equally_often_in_the_long_run():
    plan = SlicedShapley((6,), 2000).plan(24, seed=0)
    shares = plan.coalitions[0::2].mean(axis=0)
    assert np.abs(shares - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 2000)


def test_256_players_stay_within_the_numbers():
    """C(255, 127) has 76 digits; the population of a size must not overflow."""
    estimator = SlicedShapley((32, 64, 96, 128), 120)
    plan = estimator.plan(256, seed=0)
    estimate = estimator.aggregate(plan, np.random.default_rng(0).uniform(size=len(plan.coalitions)))
    assert np.isfinite(estimate.values).all() and (estimate.standard_error > 0).all()
