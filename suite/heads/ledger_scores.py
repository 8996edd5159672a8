"""From a ledger to scores, without a model: the planned coalitions, those that are recorded, and their estimate.

A merged ledger may hold several designs, whose halves are concatenated to longer halves. Only complete draws count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import numpy as np

from cokv.game.estimators import ESTIMATORS, LeaveOneOut, SlicedShapley
from cokv.game.plan import Estimate, Estimator, Plan, merge_plans
from cokv.game.prompt_reliability import prompt_reliability
from cokv.game.recorded import RecordedGame
from cokv.game.stability import Stability, assess
from cokv.game.stopping import complete_draws
from cokv.types import CokvError, FloatArray
from suite.errors import SuiteError
from suite.heads.halves import build_estimator, describe_estimator


@dataclass(frozen=True, eq=False)
class GameScores:
    """Scores of a game's players. One half alone, or an estimator without randomness, has no stability."""

    estimator: Estimator
    halves: tuple[Plan, ...]
    utilities: tuple[FloatArray, ...]  # per half, one per row
    estimate: Estimate  # of all halves together
    stability: Stability | None
    prompt_reliability: float | None = None  # None for one half, and for a game of one prompt

    @property
    def runs(self) -> list[FloatArray]:
        """Each half's own scores [num_players]."""
        pairs = zip(self.halves, self.utilities, strict=True)
        return [self.estimator.aggregate(plan, values).values for plan, values in pairs]


def known_utilities(game: RecordedGame, plan: Plan) -> FloatArray:
    """Mean over prompts [K], NaN where a row is not recorded."""
    return np.asarray(game.utilities(plan.coalitions).mean(axis=1))


def score_halves(
    estimator: Estimator,
    halves: Sequence[Plan],
    utilities: Sequence[FloatArray],
    seed: int = 0,
    game: RecordedGame | None = None,
) -> GameScores:
    """Scores of the complete draws; one with a NaN utility is left out. game: holds their utilities per prompt, for the
    reliability over prompts.
    """
    parts = [part for plan, values in zip(halves, utilities, strict=True) if (part := complete_draws(plan, values))]
    if not parts:
        raise SuiteError("no draw of the plan is whole yet, so there is no score; evaluate more coalitions")
    pooled = estimator.aggregate(merge_plans([plan for plan, _ in parts]), np.concatenate([v for _, v in parts]))
    stability = over_prompts = None
    if len(parts) == 2:
        plans = parts[0][0], parts[1][0]
        try:
            stability = assess(estimator, plans, (parts[0][1], parts[1][1]), seed=seed)
            if game is not None:
                over_prompts = reliability_over_prompts(estimator, game, plans, seed)
        except CokvError:  # a half in which some player was never drawn
            stability = None
    kept, values = tuple(p for p, _ in parts), tuple(u for _, u in parts)
    return GameScores(estimator, kept, values, pooled, stability, over_prompts)


def reliability_over_prompts(
    estimator: Estimator, game: RecordedGame, plans: tuple[Plan, Plan], seed: int
) -> float | None:
    """Of two runs whose coalitions are all on record: cokv.game.prompt_reliability."""
    return prompt_reliability(
        estimator, plans, (game.utilities(plans[0].coalitions), game.utilities(plans[1].coalitions)), seed
    )


def from_record(
    game: RecordedGame,
    name: str | None = None,
    aggregation: str | None = None,
    slice_sizes: tuple[int, ...] | None = None,
) -> GameScores:
    """Scores of a ledger's game, by the estimator it was planned for, or another that can use its coalitions."""
    if name is not None and name not in ESTIMATORS:
        raise SuiteError(f"unknown estimator {name!r}, expected one of {', '.join(ESTIMATORS)}")
    if name == "leave_one_out":
        _only_sliced(name, aggregation, slice_sizes)
        return _leave_one_out(game)
    designs = designs_of(game)
    if not designs:
        raise SuiteError(f"game {game.name!r} of {game.database.path} has no plan, only coalitions; use leave_one_out")
    first = designs[0][0]
    estimator = first if name in (None, describe_estimator(first)["name"]) else _other(str(name), first, slice_sizes)
    if isinstance(estimator, SlicedShapley):
        changes: dict[str, Any] = {"aggregation": aggregation, "slice_sizes": slice_sizes}
        estimator = replace(estimator, **{k: v for k, v in changes.items() if v is not None})
    else:
        _only_sliced(str(describe_estimator(estimator)["name"]), aggregation, slice_sizes)
    merged = planned(game)
    return score_halves(estimator, merged, [known_utilities(game, plan) for plan in merged], game=game)


def designs_of(game: RecordedGame) -> list[tuple[Estimator, list[int]]]:
    return [(build_estimator(design["estimator"]), list(design["seeds"])) for design in game.designs()]


def planned(game: RecordedGame) -> list[Plan]:
    """All designs' first halves, concatenated, and their second halves; empty without a design."""
    halves: list[dict[tuple[str, int], Plan]] = [{}, {}]
    for estimator, seeds in designs_of(game):
        for half, seed in zip(halves, seeds, strict=True):
            plan, key = estimator.plan(game.num_players, seed), (_kind(estimator), seed)
            if key not in half or len(half[key].coalitions) < len(plan.coalitions):
                half[key] = plan  # the longer one of a seed begins with the shorter
    return [merge_plans(list(half.values())) for half in halves if half]


def _kind(estimator: Estimator) -> str:
    """What determines the order of an estimator's draws: all but their number and their aggregation."""
    description = describe_estimator(estimator)
    return str(
        sorted(
            (k, v) for k, v in description.items() if k not in ("coalitions_per_size", "permutations", "aggregation")
        )
    )


def _other(name: str, first: Estimator, slice_sizes: tuple[int, ...] | None) -> Estimator:
    """Another estimator for coalitions that were planned for `first`; its aggregate raises if it cannot use them."""
    count = getattr(first, "coalitions_per_size", getattr(first, "permutations", 1))
    sizes = slice_sizes or getattr(first, "slice_sizes", None)
    available = {"slice_sizes": sizes, "coalitions_per_size": count, "permutations": count}
    kind: Any = ESTIMATORS[name]
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    if "slice_sizes" in needed and sizes is None:
        raise SuiteError("these coalitions were planned without slice sizes; name some with --slice-sizes")
    if not available.keys() >= set(needed):
        raise SuiteError(
            f"{name} plans its coalitions in its own way, these were planned for {describe_estimator(first)['name']}; "
            f"expected one of {', '.join(sorted({'sliced', 'complementary', 'leave_one_out'} - {name}))}"
        )
    estimator: Estimator = kind(**{key: available[key] for key in needed})
    return estimator


def _only_sliced(name: str, aggregation: str | None, slice_sizes: tuple[int, ...] | None) -> None:
    if aggregation is not None or slice_sizes is not None:
        raise SuiteError(f"aggregation and slice sizes are parameters of sliced, not of {name}; leave them out")


def _leave_one_out(game: RecordedGame) -> GameScores:
    estimator = LeaveOneOut()
    plan = estimator.plan(game.num_players, 0)
    utilities = known_utilities(game, plan)
    if num_missing := int(np.isnan(utilities).sum()):
        raise SuiteError(
            f"game {game.name!r} lacks {num_missing} of the {len(utilities)} coalitions of leave_one_out; "
            "aggregate with the estimator it was planned for"
        )
    return GameScores(estimator, (plan,), (utilities,), estimator.aggregate(plan, utilities), None)
