"""Check 2: do a few slice sizes rank the heads as all sizes do, that is, as the Shapley value does?

The sets of sizes are {1/4, 1/2} and {1/8, 1/4, 3/8, 1/2} of the heads. All sizes: complementary contributions at every
size (cokv.game.sliced), with their noise; or, with `exact`, the Shapley value itself, from all 2^n coalitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cokv.game.estimators import ComplementaryContributions
from cokv.game.exact import MAX_PLAYERS, all_coalitions, exact_shapley, exact_sliced_shapley
from cokv.game.plan import BoolArray, Plan
from cokv.types import CokvError, FloatArray
from suite.checks.context import Context, Row, not_run
from suite.checks.games import Played, Wanted, own_game, two_runs
from suite.checks.order import agreement, rank_correlation
from suite.checks.rules import judged, judged_order
from suite.heads.halves import estimator, plans
from suite.spec import GameSpec

NAME = "slices"
EIGHTHS = ((2, 4), (1, 2, 3, 4))  # the sizes of each set, in eighths of the heads
REFERENCE_SEEDS = 1000  # apart from those of the halves: equal seeds draw equal coalitions of a size


def sizes_of(eighths: Sequence[int], num_players: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(max(1, round(part * num_players / 8)) for part in eighths))


def wanted(context: Context) -> Wanted:
    if _exact(context):
        coalitions = [all_coalitions(context.num_players)]
    else:
        coalitions = [plan.coalitions for spec in _specs(context) for plan in plans(spec, context.num_players)]
        coalitions += [plan.coalitions for plan in _reference(context)[1]]
    return {own_game(context, task): np.concatenate(coalitions) for task in context.game_tasks}


def rows(context: Context, played: Played) -> list[Row]:
    out: list[Row] = []
    if context.spec.exact and not _exact(context):
        reason = f"at most {MAX_PLAYERS} heads, the model has {context.num_players}; all sizes are sampled below"
        out.append(not_run(NAME, "Exact Shapley values", reason))
    for task in context.game_tasks:
        for spec in _specs(context):
            what = f"Sizes {', '.join(map(str, spec.sizes_of(context.num_players)))}: the same order as all sizes?"
            try:
                result = (_exact_row if _exact(context) else _sampled_row)(context, played, task, spec)
                out.append({"check": NAME, "task": task, "what": what, "of": "heads", **result})
            except CokvError as error:  # a player never drawn
                out.append(not_run(NAME, what, str(error), task))
    return out


def _sampled_row(context: Context, played: Played, task: str, spec: GameSpec) -> dict[str, Any]:
    game, halves = own_game(context, task), plans(spec, context.num_players)
    all_sizes = two_runs(played, game, *_reference(context))
    result = agreement(
        two_runs(played, game, estimator(spec, context.num_players), halves), all_sizes, context.spec.seed, shared=False
    )
    coalitions = sum(plan.evaluations for plan in halves)
    return {**result, **judged_order(result, context.num_players), "coalitions": coalitions}


def _exact_row(context: Context, played: Played, task: str, spec: GameSpec) -> dict[str, Any]:
    game, n = own_game(context, task), context.num_players

    def utility(coalitions: BoolArray) -> FloatArray:
        return played.means(game, coalitions)

    sliced, shapley = exact_sliced_shapley(utility, n, spec.sizes_of(n)), exact_shapley(utility, n)
    value = float(rank_correlation(sliced[None], shapley[None])[0])
    result = {"score": value, "low": value, "high": value} if np.isfinite(value) else {}
    return {**result, **judged("exact order", result, n), "coalitions": 2**n}


def _specs(context: Context) -> list[GameSpec]:
    """[game] with each set of sizes; small models have one set where two would be equal."""
    sets = dict.fromkeys(sizes_of(eighths, context.num_players) for eighths in EIGHTHS)
    changes = {"estimator": "sliced", "aggregation": "paper"}
    return [context.game.model_copy(update={"slice_sizes": sizes, **changes}) for sizes in sets]


def _reference(context: Context) -> tuple[ComplementaryContributions, tuple[Plan, Plan]]:
    method, seed = ComplementaryContributions(context.spec.reference_per_size), REFERENCE_SEEDS + 2 * context.game.seed
    return method, (method.plan(context.num_players, seed), method.plan(context.num_players, seed + 1))


def _exact(context: Context) -> bool:
    return context.spec.exact and context.num_players <= MAX_PLAYERS
