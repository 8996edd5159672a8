"""Laws of all estimators: fair, converging like 1/sqrt(draws), reproducible, resumable, order-free; wrong input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from worlds.toy import interactions, majority

from cokv.game.estimators import (
    ESTIMATORS,
    AdaptiveSlicedShapley,
    AdjustedSlicedShapley,
    ComplementaryContributions,
    LeaveOneOut,
    PermutationSampling,
    SlicedShapley,
)
from cokv.game.exact import exact_sliced_shapley
from cokv.game.plan import evaluate, merge_plans
from cokv.types import CokvError

SAMPLERS = [
    SlicedShapley((2, 3, 5), 12),
    SlicedShapley((2, 3, 5), 12, aggregation="official"),
    SlicedShapley((3, 4, 5, 8), 12),
    SlicedShapley((2, 3, 5), 12, draws="balanced"),
    SlicedShapley((3, 4, 5, 8), 12, "official", "balanced"),
    AdjustedSlicedShapley((2, 3, 5), 12),
    AdjustedSlicedShapley((3, 4, 5), 12, "independent"),
    AdaptiveSlicedShapley((2, 3, 5), 12, 4),
    ComplementaryContributions(12),
    ComplementaryContributions(12, "balanced"),
    PermutationSampling(6),
    PermutationSampling(6, antithetic=True),
    LeaveOneOut(),
]
EIGHT = interactions(8, seed=1)


def name(estimator):
    return repr(estimator)


def with_draws(estimator, draws):
    """The same estimator with another number of draws."""
    if isinstance(estimator, PermutationSampling):
        return PermutationSampling(draws, estimator.antithetic)
    if isinstance(estimator, AdaptiveSlicedShapley):
        return dataclasses.replace(estimator, coalitions_per_size=max(draws, 3), pilot_per_size=max(draws // 3, 2))
    if isinstance(estimator, AdjustedSlicedShapley):
        draws += draws % 2
    return dataclasses.replace(estimator, coalitions_per_size=draws)


def longest(estimator, game, n, seed):
    """The plan, refined if the estimator does so."""
    plan = estimator.plan(n, seed)
    return estimator.refine(plan, evaluate(game, plan.coalitions), seed)


@pytest.mark.parametrize("estimator", [e for e in SAMPLERS if not isinstance(e, PermutationSampling)], ids=name)
def test_alike_players_get_the_same_score_however_they_are_drawn(estimator):
    """Holds only if no score depends on how often, or at which sizes, a player was drawn."""
    for draws in (3, 12):
        sampler = estimator if isinstance(estimator, LeaveOneOut) else with_draws(estimator, draws)
        for seed in range(5):
            values = sampler.estimate(majority(8), 8, seed).values
            np.testing.assert_allclose(values, values[0], atol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "draws"),
    [
        (SlicedShapley((4, 5, 7), 1), [16, 32, 64, 128, 256]),
        (SlicedShapley((4, 5, 7), 1, "official"), [16, 32, 64, 128, 256]),
        (PermutationSampling(1), [8, 16, 32, 64, 128]),
        (ComplementaryContributions(1), [24, 48, 96, 192]),
        (AdaptiveSlicedShapley((4, 5, 7), 9, 3), [24, 48, 96, 192]),
        (AdjustedSlicedShapley((4, 5, 7), 2, "independent"), [48, 96, 192, 384]),
    ],
    ids=["sliced", "sliced-official", "permutation", "complementary", "adaptive", "adjusted"],
)
def test_the_error_falls_like_one_over_the_square_root_of_the_draws(estimator, draws):
    n = 16
    game = interactions(n, seed=7)
    target = game.shapley
    if hasattr(estimator, "slice_sizes"):
        target = exact_sliced_shapley(game, n, estimator.slice_sizes)
        target = target * (len(estimator.slice_sizes) if estimator == SlicedShapley((4, 5, 7), 1, "official") else 1)
    errors = []
    for count in draws:
        runs = [with_draws(estimator, count).estimate(game, n, seed).values for seed in range(12)]
        errors.append(np.sqrt(np.mean((np.array(runs) - target) ** 2)))
    slope = np.polyfit(np.log(draws), np.log(errors), 1)[0]
    assert -0.7 < slope < -0.3, f"errors {np.round(errors, 5)} at {draws} draws fall with exponent {slope:.2f}"


@pytest.mark.parametrize(
    "estimator",
    [
        SlicedShapley((4, 6), 60),
        SlicedShapley((2,), 50),  # of 66 coalitions: what is left undrawn is little
        AdaptiveSlicedShapley((4, 6), 60, 30, "independent"),
        AdjustedSlicedShapley((4, 6), 60, "independent"),
        AdjustedSlicedShapley((4, 6), 60),
        PermutationSampling(40),
        PermutationSampling(40, True),
    ],
    ids=name,
)
def test_the_standard_error_is_the_spread_between_seeds(estimator):
    n = 12
    game = interactions(n, seed=7)
    runs = [estimator.estimate(game, n, seed) for seed in range(60)]
    spread = np.std([run.values for run in runs], axis=0, ddof=1)
    stated = np.mean([run.standard_error for run in runs], axis=0)
    assert 0.8 < np.mean(stated) / np.mean(spread) < 1.25


@pytest.mark.parametrize("estimator", SAMPLERS, ids=name)
def test_the_same_seed_gives_the_same_plan_and_estimate(estimator):
    first, second = estimator.plan(8, seed=11), estimator.plan(8, seed=11)
    np.testing.assert_array_equal(first.coalitions, second.coalitions)
    np.testing.assert_array_equal(estimator.estimate(EIGHT, 8, 11).values, estimator.estimate(EIGHT, 8, 11).values)
    if not isinstance(estimator, LeaveOneOut):
        assert not np.array_equal(first.coalitions, estimator.plan(8, seed=12).coalitions)


@pytest.mark.parametrize("estimator", [e for e in SAMPLERS if not isinstance(e, LeaveOneOut)], ids=name)
def test_more_draws_continue_the_smaller_plan(estimator):
    small = with_draws(estimator, 4).plan(8, seed=11)
    large = with_draws(estimator, 100).plan(8, seed=11)
    assert len(large.coalitions) > len(small.coalitions)
    for field in ("coalitions", "stratum", "draw"):
        np.testing.assert_array_equal(getattr(large, field)[: len(small.draw)], getattr(small, field))


@pytest.mark.parametrize("estimator", SAMPLERS, ids=name)
def test_the_order_of_evaluation_does_not_matter(estimator):
    """Rows evaluated one by one, backwards, from a record that is keyed by coalition."""
    plan = longest(estimator, EIGHT, 8, seed=4)
    record = {row.tobytes(): EIGHT(row[None])[0] for row in plan.coalitions[::-1]}
    assert len(record) == plan.evaluations
    utilities = np.array([record[row.tobytes()] for row in plan.coalitions])
    np.testing.assert_allclose(
        estimator.aggregate(plan, utilities).values, estimator.estimate(EIGHT, 8, seed=4).values, atol=1e-12
    )


@pytest.mark.parametrize("estimator", SAMPLERS, ids=name)
def test_no_coalition_is_evaluated_twice(estimator):
    evaluated = []

    def game(coalitions):
        evaluated.extend(row.tobytes() for row in coalitions)
        return EIGHT(coalitions)

    estimate = estimator.estimate(game, 8, seed=4)
    assert len(evaluated) == len(set(evaluated)) == estimate.evaluations


@pytest.mark.parametrize("estimator", SAMPLERS, ids=name)
def test_draws_of_weight_one_give_the_estimate_itself(estimator):
    plan = longest(estimator, EIGHT, 8, seed=4)
    utilities = evaluate(EIGHT, plan.coalitions)
    again = estimator.resample(plan, utilities, np.ones((2, plan.num_draws)))
    np.testing.assert_allclose(again, [estimator.aggregate(plan, utilities).values] * 2, atol=1e-12)


SIX_ROWS = SlicedShapley((1,), 3).plan(3, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlicedShapley((), 3), "at least one size"),
        (lambda: SlicedShapley((2, 2), 3), "each named once"),
        (lambda: SlicedShapley((2,), 3, "mean"), "expected 'paper' or 'official'"),
        (lambda: SlicedShapley((9,), 3).plan(8, 0), "slice size 9 in a game of 8 players, expected 1 to 8"),
        (lambda: SlicedShapley((0,), 3).plan(8, 0), "slice size 0"),
        (lambda: SlicedShapley((2,), 0).plan(8, 0), "coalitions_per_size = 0"),
        (lambda: PermutationSampling(0), "permutations = 0"),
        (lambda: PermutationSampling(3, antithetic=True), "expected an even number"),
        (lambda: LeaveOneOut().plan(0, 0), "a game of 0 players"),
        (lambda: SlicedShapley((2,), 3).aggregate(SIX_ROWS, [np.nan, 1, 1, 1, 1, 1]), "utility of row 0 is nan"),
        (lambda: SlicedShapley((2,), 3).aggregate(SIX_ROWS, [1.0]), r"shape \(1,\), expected \(6,\)"),
        (lambda: SlicedShapley((3,), 3).aggregate(SIX_ROWS, np.ones(6)), "no coalition of slice size 3"),
        (lambda: SlicedShapley((2,), 3).aggregate(LeaveOneOut().plan(5, 0), np.ones(6)), "complement"),
        (lambda: PermutationSampling(2).aggregate(SIX_ROWS, np.ones(6)), "expected 4 per order"),
        (lambda: LeaveOneOut().aggregate(SIX_ROWS, np.ones(6)), "use a plan of this estimator"),
        (lambda: merge_plans([SIX_ROWS, LeaveOneOut().plan(4, 0)]), "one and the same number"),
    ],
)
def test_wrong_input_is_one_clear_line(make, message):
    with pytest.raises(CokvError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_all_estimators_are_listed():
    assert {type(estimator) for estimator in SAMPLERS} == set(ESTIMATORS.values())
