"""Stop rules: what they see, when they fire, and what they make of noise."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from worlds.toy import interactions

from cokv.game.estimators import AdjustedSlicedShapley, LeaveOneOut, PermutationSampling, SlicedShapley
from cokv.game.plan import alternating_rows, evaluate, merge_plans
from cokv.game.stability import mean_absolute_error, spearman, split_half_reliability, two_run_reliability
from cokv.game.stopping import SPLITS, GameState, StopRules, complete_draws, live_state
from cokv.types import CokvError

N = 8
GAME = interactions(N, seed=1)
STATE = GameState(
    evaluations=100,
    planned=400,
    draws=(25, 25),
    missing=0,
    seconds=50.0,
    fresh=50,
    mae=0.1,
    threshold=0.125,
    spearman=0.8,
    reliability=0.9,
)


def halves(estimator, n=N):
    return estimator.plan(n, 0), estimator.plan(n, 1)


def evaluated(plans, count, game=GAME):
    """Utilities of both halves with the first `count` rows of the evaluation order known, the others NaN."""
    merged = merge_plans(plans)
    values = np.full(len(merged.coalitions), np.nan)
    rows = alternating_rows(plans)[:count]
    values[rows] = evaluate(game, merged.coalitions[rows]) if count else []
    cut = len(plans[0].coalitions)
    return values[:cut], values[cut:]


@pytest.mark.parametrize("estimator", [SlicedShapley((2, 4, 5), 20), PermutationSampling(12)], ids=repr)
def test_a_full_state_is_what_stability_says_of_the_two_halves(estimator):
    plans = halves(estimator)
    values = evaluated(plans, len(merge_plans(plans).coalitions))
    state = live_state(estimator, plans, values, seconds=3.0)
    first, second = (estimator.aggregate(p, v).values for p, v in zip(plans, values, strict=True))
    assert state.evaluations == state.planned == state.fresh == merge_plans(plans).evaluations
    assert state.mae == mean_absolute_error(first, second) and state.spearman == spearman(first, second)
    pooled = split_half_reliability(estimator, merge_plans(plans), np.concatenate(values), 0, SPLITS)
    assert state.reliability == pooled
    assert state.threshold == 1 / N and state.seconds_left == 0.0


@pytest.mark.parametrize(
    "estimator", [SlicedShapley((2, 4, 5), 20, draws="balanced"), AdjustedSlicedShapley((2, 4), 20)]
)
def test_the_reliability_of_draws_that_lean_on_each_other_is_told_from_the_halves(estimator):
    plans = halves(estimator)
    values = evaluated(plans, len(merge_plans(plans).coalitions))
    state = live_state(estimator, plans, values, seconds=3.0)
    first, second = (estimator.aggregate(p, v).values for p, v in zip(plans, values, strict=True))
    assert state.reliability == two_run_reliability(first, second) > 0.5


@pytest.mark.parametrize(
    "estimator", [SlicedShapley((2, 4), 20), PermutationSampling(10), AdjustedSlicedShapley((2, 4), 20)], ids=repr
)
def test_halves_grow_in_turn_by_whole_draws(estimator):
    plans = halves(estimator)
    rows = alternating_rows(plans)
    assert sorted(rows) == list(range(len(merge_plans(plans).coalitions)))
    for count in range(0, len(rows) + 1, 7):
        first, second = live_state(estimator, plans, evaluated(plans, count), 1.0).draws
        assert 0 <= first - second <= 1


def test_only_complete_draws_count():
    plan = PermutationSampling(3).plan(4, seed=0)
    values = np.arange(15.0)
    values[7] = np.nan  # of the second order
    part = complete_draws(plan, values)
    assert part is not None
    kept, known = part
    np.testing.assert_array_equal(known, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
    np.testing.assert_array_equal(kept.draw, [0] * 5 + [1] * 5)
    assert complete_draws(plan, np.full(15, np.nan)) is None


def test_rules_wait_until_both_halves_know_every_player_at_every_size():
    estimator = SlicedShapley((2, 6), 20)
    plans = halves(estimator)
    rules, coverage, calls = StopRules(reliability=1e-9), [], 0
    for count in range(0, 160, 4):
        values = evaluated(plans, count)
        state = live_state(estimator, plans, values, 1.0)
        covered = all(
            np.all([p.coalitions[np.isfinite(v) & (p.coalitions.sum(axis=1) == size)].any(axis=0) for size in (2, 6)])
            for p, v in zip(plans, values, strict=True)
        )
        coverage.append(covered)
        assert (state.missing == 0) == covered
        assert ("mae" in state.to_json()) == (state.mae is not None)
        assert state.mae is not None or not covered
        if state.reliability is not None and state.reliability > 0 and not covered:
            calls += 1
            assert rules.verdict(state) is None
    assert coverage == sorted(coverage) and not coverage[0] and coverage[-1] and calls


def test_nothing_evaluated_is_a_state_too():
    estimator = SlicedShapley((2, 4), 10)
    plans = halves(estimator)
    state = live_state(estimator, plans, evaluated(plans, 0), 0.0)
    assert (state.evaluations, state.draws, state.seconds_left, state.mae) == (0, (0, 0), None, None)
    assert StopRules(mae=True, reliability=0.5, evaluations=1, minutes=1).verdict(state) is None


def test_time_left_counts_only_what_was_evaluated_now():
    assert STATE.seconds_left == 300.0  # 50 coalitions took 50 seconds, 300 are left


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (StopRules(), None),
        (StopRules(mae=True), "MAE 0.1000 between halves is below 0.1250, after 100 coalitions"),
        (StopRules(mae=True, min_evaluations=101), None),
        (StopRules(reliability=0.9), "reliability 0.900 is at least 0.9"),
        (StopRules(reliability=0.91), None),
        (StopRules(mae=True, reliability=0.91), None),
        (StopRules(mae=True, reliability=0.9), "MAE .* and reliability"),
        (StopRules(evaluations=100), "100 coalitions evaluated, the budget is 100"),
        (StopRules(evaluations=101), None),
        (StopRules(minutes=0.8), "0.8 minutes spent, the budget is 0.8"),
        (StopRules(minutes=0.9), None),
        (StopRules(reliability=0.99, evaluations=50), "budget is 50"),
        (StopRules(reliability=0.99, minutes=0.5), "budget is 0.5"),
    ],
    ids=repr,
)
def test_accuracy_rules_must_all_hold_and_any_budget_ends(rules, reason):
    verdict = rules.verdict(STATE)
    if reason is None:
        assert verdict is None
    else:
        assert verdict is not None and re.search(reason, verdict)


def test_an_undefined_measure_never_stops_a_run():
    state = dataclasses.replace(STATE, mae=None, reliability=None)
    assert StopRules(mae=True).verdict(state) is None
    assert StopRules(reliability=0.1).verdict(state) is None


def test_the_papers_rule_stops_on_noise_and_a_reliability_does_not():
    def noise(coalitions):
        return np.array([np.random.default_rng(list(row.tobytes())).uniform() for row in coalitions])

    estimator = SlicedShapley((4, 6), 300)
    plans = halves(estimator, 12)
    state = live_state(estimator, plans, evaluated(plans, 2400, noise), 1.0)
    assert "MAE" in (StopRules(mae=True).verdict(state) or "")
    assert StopRules(mae=True, reliability=0.8).verdict(state) is None


def test_reliability_rises_as_draws_come_in():
    estimator = SlicedShapley((2, 4), 60)
    plans = halves(estimator, 12)
    game = interactions(12, seed=5)
    reliabilities = [live_state(estimator, plans, evaluated(plans, k, game), 1.0).reliability for k in (160, 240, 480)]
    assert reliabilities[0] < reliabilities[1] < reliabilities[2] > 0.8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StopRules(reliability=90), "reliability = 90, expected a target between 0 and 1"),
        (lambda: StopRules(evaluations=0), "evaluations = 0, expected a budget above 0"),
        (lambda: StopRules(minutes=-1), "minutes = -1"),
        (lambda: StopRules(min_evaluations=-1), "min_evaluations"),
        (lambda: live_state(LeaveOneOut(), halves(LeaveOneOut()), (np.ones(9), np.ones(9)), 0), "plans of two seeds"),
        (
            lambda: live_state(SlicedShapley((2,), 5), halves(SlicedShapley((2,), 5)), (np.ones(9), np.ones(10)), 0),
            r"shape \(9,\), expected \(10,\)",
        ),
    ],
)
def test_wrong_rules_and_input_are_one_clear_line(make, message):
    with pytest.raises(CokvError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
