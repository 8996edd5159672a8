"""The two halves of a game: independent plans of one estimator.

A *design*, the estimator with its parameters and the seeds of both halves, is stored in the ledger as JSON; plans
follow from it, so that a ledger needs no list of planned coalitions.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, TypeAlias

from cokv.game.estimators import ESTIMATORS, AdjustedSlicedShapley, SlicedShapley
from cokv.game.plan import BoolArray, Estimator, Plan, alternating_rows, distinct, merge_plans
from cokv.types import JSON
from suite.errors import SuiteError
from suite.spec import GameSpec

Halves: TypeAlias = tuple[Plan, Plan]


def estimator(spec: GameSpec, num_players: int) -> SlicedShapley | AdjustedSlicedShapley:
    sizes = spec.sizes_of(num_players)
    if spec.estimator == "adjusted":
        return AdjustedSlicedShapley(sizes, spec.coalitions_per_size, spec.draws)
    return SlicedShapley(sizes, spec.coalitions_per_size, spec.aggregation, spec.draws)


def seeds(spec: GameSpec) -> tuple[int, int]:
    return 2 * spec.seed, 2 * spec.seed + 1


def plans(spec: GameSpec, num_players: int) -> Halves:
    first, second = (estimator(spec, num_players).plan(num_players, seed) for seed in seeds(spec))
    return first, second


def order(halves: Halves) -> BoolArray:
    """All coalitions [K, num_players] in the order of their evaluation: a draw of the one half, a draw of the other."""
    return merge_plans(halves).coalitions[alternating_rows(halves)]


def evaluations(spec: GameSpec, num_players: int) -> int:
    """Distinct coalitions of both halves together, for one task."""
    return len(distinct(order(plans(spec, num_players)))[0])


def design(estimator: Estimator, seeds: tuple[int, int]) -> dict[str, JSON]:
    return {"estimator": describe_estimator(estimator), "seeds": list(seeds)}


def describe_estimator(estimator: Estimator) -> dict[str, JSON]:
    """An estimator by name and parameters."""
    names = {kind: name for name, kind in ESTIMATORS.items()}
    values: Any = asdict(estimator)  # type: ignore[call-overload]  # every estimator is a dataclass
    return {"name": names[type(estimator)], **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def build_estimator(description: dict[str, Any]) -> Estimator:
    """The estimator that `described` wrote down."""
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in description.items() if key != "name"}
    try:
        return ESTIMATORS[description["name"]](**values)
    except (KeyError, TypeError) as error:
        raise SuiteError(f"estimator {description} of the ledger is unknown here ({error}); use a newer cokv") from None
