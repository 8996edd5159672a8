"""Reliability over prompts: that of the draws where prompts agree, near 0 where each ranks players its own way."""

from __future__ import annotations

import numpy as np
import pytest

from cokv.game.estimators import SlicedShapley
from cokv.game.plan import merge_plans
from cokv.game.prompt_reliability import prompt_reliability
from cokv.game.stability import split_half_reliability, two_run_reliability
from cokv.types import CokvError

N, PROMPTS = 16, 8
INDEPENDENT, BALANCED = SlicedShapley((4, 8), 40), SlicedShapley((4, 8), 40, draws="balanced")


def utilities(plan, worth):
    """Sums over members [K, prompts] with a little noise of their own; worth: [prompts, players]."""
    noise = 0.05 * np.random.default_rng(len(plan.coalitions)).standard_normal((len(plan.coalitions), len(worth)))
    return plan.coalitions @ worth.T + noise


def measured(estimator, worth):
    """(over prompts, over draws alone)"""
    plans = estimator.plan(N, 0), estimator.plan(N, 1)
    per_prompt = tuple(utilities(plan, worth) for plan in plans)
    means = [values.mean(axis=1) for values in per_prompt]
    if estimator.independent_draws:
        over_draws = split_half_reliability(estimator, merge_plans(plans), np.concatenate(means), seed=0)
    else:
        scores = [estimator.aggregate(plan, values).values for plan, values in zip(plans, means, strict=True)]
        over_draws = two_run_reliability(*scores)
    return prompt_reliability(estimator, plans, per_prompt, seed=0), over_draws


@pytest.mark.parametrize("estimator", [INDEPENDENT, BALANCED], ids=["independent", "balanced"])
def test_prompts_that_agree_cost_nothing(estimator):
    over_prompts, over_draws = measured(estimator, np.tile(np.random.default_rng(0).random(N), (PROMPTS, 1)))
    assert over_prompts == pytest.approx(over_draws, abs=0.05) and over_prompts > 0.9


@pytest.mark.parametrize("estimator", [INDEPENDENT, BALANCED], ids=["independent", "balanced"])
def test_prompts_that_each_rank_players_their_own_way_show_it_and_draws_alone_do_not(estimator):
    values = [measured(estimator, np.random.default_rng(seed).random((PROMPTS, N))) for seed in range(6)]
    over_prompts, over_draws = np.mean(values, axis=0)
    assert over_draws > 0.85 and abs(over_prompts) < 0.35


def test_it_predicts_how_new_draws_on_new_prompts_agree():
    common, predicted, agreement = np.random.default_rng(1).random(N), [], []
    for seed in range(10):
        rng = np.random.default_rng(seed + 5)
        first, second = (common + 0.6 * rng.standard_normal((PROMPTS, N)) for _ in range(2))
        predicted.append(measured(INDEPENDENT, first)[0])
        scores = []
        for worth, seeds in ((first, (0, 1)), (second, (2, 3))):
            plan = merge_plans([INDEPENDENT.plan(N, s) for s in seeds])
            scores.append(INDEPENDENT.aggregate(plan, utilities(plan, worth).mean(axis=1)).values)
        agreement.append(np.corrcoef(*scores)[0, 1])
    assert np.mean(predicted) == pytest.approx(np.mean(agreement), abs=0.12)


def test_one_prompt_that_alone_has_an_order_is_no_evidence():
    worth = np.zeros((PROMPTS, N))
    worth[3] = np.random.default_rng(0).random(N)
    plans = INDEPENDENT.plan(N, 0), INDEPENDENT.plan(N, 1)
    assert prompt_reliability(INDEPENDENT, plans, tuple(p.coalitions @ worth.T for p in plans), seed=0) == 0.0


def test_nothing_is_said_of_one_prompt_nor_of_players_all_alike():
    plans = INDEPENDENT.plan(N, 0), INDEPENDENT.plan(N, 1)
    one = tuple(np.ones((len(plan.coalitions), 1)) for plan in plans)
    assert prompt_reliability(INDEPENDENT, plans, one, seed=0) is None
    alike = tuple(np.ones((len(plan.coalitions), PROMPTS)) for plan in plans)
    assert prompt_reliability(INDEPENDENT, plans, alike, seed=0) is None
    with pytest.raises(CokvError, match="a row per coalition"):
        prompt_reliability(INDEPENDENT, plans, (one[0], one[1][1:]), seed=0)
