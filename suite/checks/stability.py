"""Check 1: two SSV runs with different seeds. How far apart are they, and how many coalitions does agreement take?"""

from __future__ import annotations

from typing import Any

import numpy as np

from cokv.game.plan import Plan, distinct, merge_plans
from cokv.game.stability import draws_by_stratum, two_run_reliability
from cokv.types import CokvError, FloatArray
from reports.intervals import RESAMPLES, Resamples, bootstrap_p, interval
from suite.checks.context import Context, Row, not_run
from suite.checks.games import Played, Wanted, own_game, two_runs
from suite.checks.order import TwoRuns, rank_correlation
from suite.checks.rules import RULES, judged, judged_reached
from suite.heads.halves import estimator, order, plans

NAME = "stability"
ORDERS, STEPS = 100, 24
RELIABLE = 0.9


def wanted(context: Context) -> Wanted:
    halves = plans(context.game, context.num_players)
    return {own_game(context, task): order(halves) for task in context.tasks}


def rows(context: Context, played: Played) -> list[Row]:
    halves, method = plans(context.game, context.num_players), estimator(context.game, context.num_players)
    out = []
    for task in context.tasks:
        game = own_game(context, task)
        runs = two_runs(played, game, method, halves)
        try:
            out += task_rows(runs, task, context.game.utility == "log_likelihood", context.spec.seed)
        except CokvError as error:  # a player never drawn
            out.append(not_run(NAME, "Do two runs agree?", str(error), task))
    return out


def task_rows(runs: TwoRuns, task: str, unbounded: bool, seed: int) -> list[Row]:
    """unbounded: a utility outside 0 to 1, for which 1/n is no bar."""
    first, second = runs.scores(0)[0], runs.scores(1)[0]
    n, planned = len(first), merge_plans(runs.plans).evaluations
    common: dict[str, Any] = {"check": NAME, "task": task, "of": "heads", "coalitions": planned}
    out: list[Row] = []
    question = "Is the MAE of two runs below 1/n?"
    if unbounded:
        out.append(not_run(NAME, question, "the bar 1/n is for utilities between 0 and 1", task))
    else:
        gaps = n * np.abs(first - second)
        means = Resamples.draw(n, seed).means(gaps)
        mae = {"score": float(gaps.mean()), **interval(means), "p": bootstrap_p(means, RULES["mae"].bar)}
        out.append({**common, "what": question, **mae, **judged("mae", mae, n)})
    reliable = _correlations(first, second, seed)
    out.append(
        {**common, "what": "Is the order of the heads reliable?", **reliable, **judged("reliability", reliable, n)}
    )
    for bar, what in (
        ("mae", "Coalitions until the MAE is below 1/n"),
        ("reliability", "Coalitions until the reliability is 0.9"),
    ):
        if bar == "mae" and unbounded:
            continue
        if not runs.estimator.independent_draws:
            out.append(
                not_run(NAME, what, "draws of one design depend on each other, so their order says nothing", task)
            )
            continue
        reached = np.sort(first_passed(runs, bar, seed))
        low, middle, high = (_count(float(np.quantile(reached, q, method="nearest"))) for q in (0.025, 0.5, 0.975))
        counts = {"score": middle, "low": low, "high": high, "planned": planned}
        out.append({**common, "what": what, **counts, **judged_reached(low, high, ORDERS), "of": "random orders"})
    return out


def _correlations(first: FloatArray, second: FloatArray, seed: int) -> dict[str, Any]:
    """Reliability of both runs together, and Spearman's correlation of the two, with intervals over heads; nothing
    where a run has no spread.
    """
    value = two_run_reliability(first, second)
    if value is None:
        return {}
    n = len(first)
    drawn = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    left, right = first[drawn], second[drawn]
    spearman = rank_correlation(left, right)
    left, right = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        r = (left * right).sum(axis=1) / np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    r, spearman = r[np.isfinite(r)], spearman[np.isfinite(spearman)]
    ranks = {"score": float(rank_correlation(first[None], second[None])[0]), **interval(spearman)}
    stepped_up = np.where(r > 0, 2 * r / (1 + r), r)
    p = bootstrap_p(stepped_up, RULES["reliability"].bar)
    return {"score": float(value), **interval(stepped_up), "p": p, "spearman": ranks}


def _count(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None


def first_passed(runs: TwoRuns, bar: str, seed: int) -> FloatArray:
    """Distinct coalitions of both runs from which on the bar is passed, for each of ORDERS random orders of the draws
    [ORDERS]; infinite where it is not passed with all draws. The first order is the plan's own.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    ranks = [_ranks(plan, generator) for plan in runs.plans]  # per run [ORDERS, num_draws]
    most = min(plan.num_draws for plan in runs.plans)
    steps = np.unique(np.linspace(1, most, min(STEPS, most)).round().astype(int))
    passed = np.zeros((len(steps), ORDERS), dtype=np.bool_)
    for place, step in enumerate(steps):
        pair = [
            runs.estimator.resample(plan, values, (rank < step).astype(np.float64))
            for plan, values, rank in zip(runs.plans, runs.utilities, ranks, strict=True)
        ]
        passed[place] = [_passes(a, b, bar) for a, b in zip(*pair, strict=True)]
    stays = np.flip(np.logical_and.accumulate(np.flip(passed, axis=0), axis=0), axis=0)
    first = np.where(stays.any(axis=0), stays.argmax(axis=0), -1)
    cost = [_evaluations(runs.plans, step) for step in steps]
    return np.array([np.inf if place < 0 else cost[place] for place in first])


def _passes(first: FloatArray, second: FloatArray, bar: str) -> bool:
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return False
    if bar == "mae":
        return bool(np.abs(first - second).mean() < 1 / len(first))
    value = two_run_reliability(first, second)
    return value is not None and value >= RELIABLE


def _ranks(plan: Plan, generator: np.random.Generator) -> FloatArray:
    """The place of every draw in each order [ORDERS, num_draws]: sizes in turn, as planned, their draws at random."""
    ranks = np.tile(np.arange(plan.num_draws), (ORDERS, 1))
    for draws in draws_by_stratum(plan):
        for row in ranks[1:]:
            row[draws] = generator.permutation(draws)
    return np.asarray(ranks, dtype=np.float64)


def _evaluations(halves: tuple[Plan, Plan], step: int) -> int:
    """Distinct coalitions of the first `step` draws of both runs, in the plan's own order."""
    return len(distinct(np.concatenate([plan.coalitions[plan.draw < step] for plan in halves]))[0])
