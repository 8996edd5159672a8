"""Balanced draws, folds and pilots: unbiased over all relabellings of a tiny game, even in company, and worth it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from worlds.toy import additive, interactions

from cokv.game.adaptive import allocate
from cokv.game.adjusted import fit_members, mean_of_sum
from cokv.game.estimators import AdaptiveSlicedShapley, AdjustedSlicedShapley, ComplementaryContributions, SlicedShapley
from cokv.game.exact import all_coalitions, exact_shapley, exact_sliced_shapley
from cokv.game.plan import Plan, evaluate, evaluate_rest
from cokv.game.stability import assess
from cokv.types import CokvError

N = 4
SIZES = (2, 3)
WORTH = np.random.default_rng(3).uniform(size=2**N)
ORDERS = [list(order) for order in itertools.permutations(range(N))]


def game(coalitions):
    """An arbitrary utility for each of the sixteen coalitions."""
    return WORTH[coalitions @ (1 << np.arange(N))]


def relabelled(plan, *orders):
    """The plan with the players of stage k renamed by the k-th order."""
    rows = plan.coalitions.copy()
    for stage, order in enumerate(orders):
        rows[plan.stage == stage] = rows[plan.stage == stage][:, order]
    return Plan(rows, plan.stratum, plan.draw, plan.stage)


def value(estimator, plan):
    estimate = estimator.aggregate(plan, game(plan.coalitions))
    assert not estimate.missing.any(), "the law is about draws that hold every player"
    return estimate.values


# ---- unbiased: all relabellings of a design are equally likely, and their mean is the value itself


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("aggregation", ["paper", "official"])
@pytest.mark.parametrize(("draws", "count"), [("balanced", 2), ("balanced", 3), ("independent", 3)])
def test_designs_are_unbiased(draws, count, aggregation, seed):
    estimator = SlicedShapley(SIZES, count, aggregation, draws)
    plan = estimator.plan(N, seed)
    if draws == "independent" and estimator.aggregate(plan, game(plan.coalitions)).missing.any():
        pytest.skip("a player of this plan is missing at a size")
    mean = np.mean([value(estimator, relabelled(plan, order)) for order in ORDERS], axis=0)
    exact = exact_sliced_shapley(game, N, SIZES) * (len(SIZES) if aggregation == "official" else 1)
    np.testing.assert_allclose(mean, exact, atol=1e-12)


def test_balanced_complementary_contributions_are_unbiased():
    five, estimates = interactions(5, seed=3), []
    estimator = ComplementaryContributions(5, "balanced")
    plan = estimator.plan(5, seed=0)
    for order in itertools.permutations(range(5)):
        drawn = relabelled(plan, list(order))
        estimates.append(estimator.aggregate(drawn, five(drawn.coalitions)).values)
    np.testing.assert_allclose(np.mean(estimates, axis=0), exact_shapley(five, 5), atol=1e-12)
    assert np.ptp(estimates, axis=0).min() > 1e-3, "everything was drawn"


def test_two_folds_are_unbiased():
    estimator = AdjustedSlicedShapley(SIZES, 4)
    plan = estimator.plan(N, 0)
    mean = np.mean([value(estimator, relabelled(plan, *both)) for both in itertools.product(ORDERS, ORDERS)], axis=0)
    np.testing.assert_allclose(mean, exact_sliced_shapley(game, N, SIZES), atol=1e-12)


def test_a_fit_to_the_same_draws_would_be_biased():
    """That the law above can fail: with b from all draws, the mean over relabellings is another."""
    estimator = AdjustedSlicedShapley(SIZES, 4)
    plan, estimates = estimator.plan(N, 0), []
    for both in itertools.product(ORDERS, ORDERS):
        drawn = relabelled(plan, *both)
        utilities = game(drawn.coalitions)
        worth = fit_members(drawn.coalitions[0::2], utilities[0::2] - utilities[1::2])
        rest = utilities - np.where(drawn.coalitions, 0.5, -0.5) @ worth
        estimates.append(SlicedShapley(SIZES, 1).aggregate(drawn, rest).values + mean_of_sum(worth, SIZES))
    assert np.abs(np.mean(estimates, axis=0) - exact_sliced_shapley(game, N, SIZES)).max() > 1e-4


def two_stages(estimator, plan, order):
    """The second stage that this pilot asks for, drawn by the plan's own seed and relabelled."""
    return relabelled(estimator.refine(plan, game(plan.coalitions), seed=7), list(range(N)), order)


def test_a_pilot_and_its_second_stage_are_unbiased():
    """Allocations differ between pilots, yet the mean over all pilots and second stages is the value itself; pooling
    all draws instead, as if there were no stages, is biased.
    """
    estimator = AdaptiveSlicedShapley(SIZES, 5, 2)
    exact = exact_sliced_shapley(game, N, SIZES)
    values, pooled, allocations = [], [], set()
    for first, second in itertools.product(ORDERS, ORDERS):
        plan = two_stages(estimator, relabelled(estimator.plan(N, 7), first), second)
        allocations.add(tuple(np.bincount(plan.stratum[plan.stage == 1])))
        values.append(value(estimator, plan))
        pooled.append(value(SlicedShapley(SIZES, 1), plan))
    assert len(allocations) > 1
    np.testing.assert_allclose(np.mean(values, axis=0), exact, atol=1e-12)
    assert np.abs(np.mean(pooled, axis=0) - exact).max() > 1e-4


def test_adaptive_draws_converge_on_the_value_within_their_error():
    """Monte Carlo: the mean of 200 runs lies within 4.5 standard errors of the value, for every player."""
    toy = interactions(8, seed=1)
    estimator = AdaptiveSlicedShapley((2, 5, 7), 12, 4)
    runs = np.array([estimator.estimate(toy, 8, seed).values for seed in range(200)])
    error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    assert np.all(np.abs(runs.mean(axis=0) - exact_sliced_shapley(toy, 8, (2, 5, 7))) < 4.5 * error)


# ---- what balance is


@pytest.mark.parametrize("sizes", [(2, 4, 6, 8), (4, 6), (3, 5, 13)])
def test_balanced_draws_hold_every_player_equally_often_at_every_size(sizes):
    plan = SlicedShapley(sizes, 24, draws="balanced").plan(16, seed=0)
    drawn = plan.coalitions[0::2]
    for size in sizes:
        both = [drawn[drawn.sum(axis=1) == size]]
        if 16 - size in sizes:
            both.append(~drawn[drawn.sum(axis=1) == 16 - size])
        times = np.concatenate(both).sum(axis=0)
        assert np.ptp(times) <= (2 if size == 2 else 1), f"size {size}: {times}"  # of pairs, some are met again


def company(plan):
    """How unevenly pairs of players stand together: spread of the number of coalitions that hold both."""
    drawn = plan.coalitions[0::2].astype(float)
    together = drawn.T @ drawn
    return together[~np.eye(len(together), dtype=bool)].std()


def test_balanced_draws_even_out_company():
    even, chance = (company(SlicedShapley((4, 6), 40, draws=d).plan(16, 0)) for d in ("balanced", "independent"))
    assert even < 0.5 * chance


def test_balanced_draws_of_a_small_size_end_with_all_coalitions():
    plan = SlicedShapley((2, 3), 99, draws="balanced").plan(5, seed=0)
    for size in (2, 3):
        rows = plan.coalitions[0::2][plan.stratum[0::2] == size]
        assert len(rows) == 10 == len(np.unique(rows, axis=0)) and np.all(rows.sum(axis=1) == size)


def test_balanced_draws_of_different_stages_and_seeds_differ():
    plan = AdjustedSlicedShapley((4,), 12).plan(12, seed=0)
    first, second = (plan.coalitions[plan.stage == stage] for stage in (0, 1))
    assert len(first) == len(second) and not np.array_equal(first, second)


@pytest.mark.parametrize("draws", ["balanced", "independent"])
def test_folds_are_drawn_in_turn(draws):
    plan = AdjustedSlicedShapley((3, 5), 10, draws).plan(12, seed=0)
    np.testing.assert_array_equal(plan.stage[::2], [0, 1] * 10)
    np.testing.assert_array_equal(plan.draw, np.repeat(np.arange(20), 2))


# ---- what it is worth


def spread(estimator, toy, runs=16):
    estimates = [estimator.estimate(toy, toy.num_players, seed) for seed in range(runs)]
    return np.std([run.values for run in estimates], axis=0, ddof=1).mean(), estimates[0].evaluations


@pytest.mark.parametrize("seed", [1, 2])
def test_balance_and_folds_each_make_scores_less_noisy_at_the_same_cost(seed):
    toy = interactions(16, seed)
    plain, cost = spread(SlicedShapley((4, 6, 8), 36), toy)
    balanced, balanced_cost = spread(SlicedShapley((4, 6, 8), 36, draws="balanced"), toy)
    adjusted, adjusted_cost = spread(AdjustedSlicedShapley((4, 6, 8), 36), toy)
    assert abs(balanced_cost - cost) < 8 and abs(adjusted_cost - cost) < 8
    assert balanced < 0.7 * plain, f"{balanced} against {plain}"
    assert adjusted < 0.7 * plain, f"{adjusted} against {plain}"


def test_nothing_is_left_to_sample_on_a_sum():
    toy = additive([0.1, 0.9, -0.4, 0.0, 0.3, 0.2, 0.5, 0.05])
    values = AdjustedSlicedShapley((2, 3, 4), 24).estimate(toy, 8, seed=0).values
    np.testing.assert_allclose(values, exact_sliced_shapley(toy, 8, (2, 3, 4)), atol=2e-3)


def test_a_pilot_finds_the_sizes_that_vary():
    """Only coalitions of three have utilities that vary: they get what the others do not need."""

    def varied(coalitions):
        rows = coalitions @ (1 << np.arange(12))
        chance = np.random.default_rng(0).uniform(size=2**12)[rows]
        return np.where(np.isin(coalitions.sum(axis=1), (3, 9)), chance, 0.01 * chance)

    estimator = AdaptiveSlicedShapley((3, 5, 6), 60, 20)
    pilot = estimator.plan(12, seed=0)
    utilities = evaluate(varied, pilot.coalitions)
    plan = estimator.refine(pilot, utilities, seed=0)
    np.testing.assert_array_equal(plan.coalitions[: len(pilot.coalitions)], pilot.coalitions)
    second = {size: int(np.sum(plan.stratum[plan.stage == 1] == size)) // 2 for size in (3, 5, 6)}
    assert sum(second.values()) == 120 and second[3] > 100 and min(second.values()) >= 2
    whole = evaluate_rest(varied, plan, utilities)
    assert estimator.refine(plan, whole, seed=0) is plan
    equal = SlicedShapley((3, 5, 6), 60)
    target = exact_sliced_shapley(varied, 12, (3, 5, 6))
    errors = [
        np.mean([(e.estimate(varied, 12, seed).values - target) ** 2 for seed in range(20)]) for e in (estimator, equal)
    ]
    assert errors[0] < 0.75 * errors[1], f"mean squared errors {errors}"


def test_a_size_that_the_pilot_draws_completely_gets_no_more():
    estimator = AdaptiveSlicedShapley((1, 4), 20, 8)
    plan = estimator.refine(estimator.plan(8, 0), np.random.default_rng(0).uniform(size=32), seed=0)
    assert set(plan.stratum[plan.stage == 1]) == {4} and np.sum(plan.stage == 1) == 24


@pytest.mark.parametrize(
    ("total", "spread", "least", "most", "expected"),
    [
        (12, [1.0, 2.0, 3.0], [1, 1, 1], 99, [2, 4, 6]),
        (12, [0.0, 1.0, 1.0], [2, 2, 2], 99, [2, 5, 5]),
        (12, [0.0, 0.0, 0.0], [1, 1, 1], 99, [4, 4, 4]),
        (12, [np.nan, 1.0, 1.0], [1, 1, 1], 99, [4, 4, 4]),
        (5, [9.0, 1.0, 1.0], [2, 2, 2], 99, [2, 2, 1]),
        (10, [1.0, 1.0, 1.0], [1, 1, 1], 99, [4, 3, 3]),
        (20, [100.0, 1.0, 9.0], [2, 4, 3], 99, [13, 4, 3]),
        (20, [100.0, 1.0, 3.0], [1, 1, 1], 9, [9, 3, 8]),
        (20, [0.0, 1.0, 0.0], [1, 1, 1], 7, [7, 7, 6]),
        (40, [1.0, 2.0, 9.0], [1, 1, 1], 7, [7, 7, 7]),
    ],
)
def test_allocations_sum_to_the_total_within_their_bounds(total, spread, least, most, expected):
    assert allocate(total, np.array(spread), np.array(least), np.full(3, float(most))) == expected


def test_utilities_known_from_the_pilot_are_not_asked_again():
    evaluated = []

    def counted(coalitions):
        evaluated.extend(row.tobytes() for row in coalitions)
        return game(coalitions)

    AdaptiveSlicedShapley((1, 2), 5, 3).estimate(counted, N, seed=0)
    assert len(evaluated) == len(set(evaluated))


# ---- stability of draws that lean on each other


def test_the_reliability_of_balanced_draws_is_told_from_two_runs():
    toy, estimator = interactions(16, seed=1), SlicedShapley((4, 6, 8), 16, draws="balanced")
    plans = estimator.plan(16, 0), estimator.plan(16, 1)
    values = tuple(evaluate(toy, plan.coalitions) for plan in plans)
    report = assess(estimator, plans, values, seed=0, resamples=50)
    first, second = (estimator.aggregate(p, v).values for p, v in zip(plans, values, strict=True))
    correlation = np.corrcoef(first, second)[0, 1]
    assert report.split_half == pytest.approx(2 * correlation / (1 + correlation))


def test_two_runs_of_a_pilot_and_a_second_stage_are_assessed_together():
    """Draws are resampled among those of their size and stage."""
    toy, estimator = interactions(10, seed=1), AdaptiveSlicedShapley((3, 4), 20, 8)
    plans, values = [], []
    for seed in (0, 1):
        pilot = estimator.plan(10, seed)
        known = evaluate(toy, pilot.coalitions)
        plans.append(estimator.refine(pilot, known, seed))
        values.append(evaluate_rest(toy, plans[-1], known))
    report = assess(estimator, tuple(plans), tuple(values), seed=0, resamples=100)
    assert report.split_half > 0.5 and np.all(report.interval[:, 0] < report.interval[:, 1])


def test_intervals_of_adjusted_scores_hold_the_value_about_as_often_as_they_say():
    toy = interactions(12, seed=3)
    estimator = AdjustedSlicedShapley((3, 5), 30)
    target, held = exact_sliced_shapley(toy, 12, (3, 5)), []
    for seed in range(24):
        plans = estimator.plan(12, 2 * seed), estimator.plan(12, 2 * seed + 1)
        values = tuple(evaluate(toy, plan.coalitions) for plan in plans)
        low, high = assess(estimator, plans, values, seed=0, resamples=200).interval.T
        held.append((low <= target) & (target <= high))
    assert 0.85 < np.mean(held) <= 1.0


# ---- the fit


def test_the_mean_of_a_sum_is_known():
    worth = np.random.default_rng(0).normal(size=N)
    rows = all_coalitions(N)
    sums = np.where(rows, 1.0, -1.0) @ worth
    for size in range(1, N + 1):
        chosen = rows.sum(axis=1) == size
        mean = sums[chosen] @ rows[chosen] / rows[chosen].sum(axis=0)
        np.testing.assert_allclose(mean_of_sum(worth, (size,)), mean, atol=1e-12)


def test_a_sum_with_a_level_per_size_is_recovered():
    generator = np.random.default_rng(0)
    plan = SlicedShapley((3, 4), 60).plan(10, seed=0)
    members, worth = plan.coalitions[0::2], generator.normal(size=10)
    level = np.where(members.sum(axis=1) == 3, -7.0, -4.0)
    fitted = fit_members(members, np.where(members, 1.0, -1.0) @ worth + level)
    # within a size, a constant added to all of b only moves the level
    np.testing.assert_allclose(fitted - fitted.mean(), worth - worth.mean(), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlicedShapley((2,), 3, draws="even"), "draws = 'even', expected one of independent, balanced"),
        (lambda: AdjustedSlicedShapley((2,), 3), "expected an even number"),
        (lambda: AdjustedSlicedShapley((), 4), "at least one size"),
        (lambda: AdaptiveSlicedShapley((2,), 4, 4), "pilot_per_size = 4 of coalitions_per_size = 4"),
        (lambda: AdaptiveSlicedShapley((2,), 4, 1), "expected at least 2"),
        (
            lambda: AdjustedSlicedShapley((2,), 4).aggregate(SlicedShapley((2,), 4).plan(4, 0), np.ones(8)),
            r"stages \[0\], expected two folds",
        ),
    ],
)
def test_wrong_input_is_one_clear_line(make, message):
    with pytest.raises(CokvError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
