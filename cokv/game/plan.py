"""What every estimator shares: a game, the plan of coalitions to evaluate, and the estimate from their utilities.

An estimator works in two steps, each without the other's inputs. `plan(num_players, seed)` fixes which coalitions
will be evaluated, without a game; `aggregate(plan, utilities)` turns their utilities into scores, without a game.
Between the two a caller may evaluate in any order, on any number of machines, record every coalition, stop, and go
on. A plan of more draws begins with the rows of the smaller plan of the same seed, so evaluated coalitions stay
evaluated when a run is extended. An estimator that chooses further coalitions by its first
utilities has a third step, `refine(plan, utilities, seed)`, which returns a longer plan that begins with the first one.

This file does not know what a coalition masks, nor how a utility is measured.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cokv.types import JSON, CokvError, FloatArray, IntArray

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Game: TypeAlias = Callable[[BoolArray], FloatArray]
"""Coalitions bool [R, num_players] -> utilities float64 [R]; True marks a member. Rows are independent."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The coalitions to evaluate, in order, and the grouping of rows into draws."""

    coalitions: BoolArray  # [K, num_players]
    stratum: IntArray  # [K] slice size the row was drawn for; 0 where the estimator has no strata
    draw: IntArray  # [K] rows of one draw are used together: the unit that is resampled
    stage: IntArray = field(default_factory=lambda: np.empty(0, np.int64))  # [K] 0, and 1 for rows that `refine` adds

    def __post_init__(self) -> None:
        if not len(self.stage):
            object.__setattr__(self, "stage", np.zeros(len(self.coalitions), dtype=np.int64))
        kinds = (("coalitions", np.bool_, 2), ("stratum", np.int64, 1), ("draw", np.int64, 1), ("stage", np.int64, 1))
        for name, dtype, ndim in kinds:
            array = np.array(getattr(self, name), dtype=dtype)
            if array.ndim != ndim:
                raise CokvError(f"plan: {name} has shape {array.shape}, expected {ndim} axes")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if not len(self.coalitions) == len(self.stratum) == len(self.draw) == len(self.stage):
            lengths = f"{len(self.coalitions)} coalitions, {len(self.stratum)} strata, {len(self.draw)} draws"
            raise CokvError(f"plan: {lengths}, expected one stratum, one draw and one stage per coalition")
        if not self.coalitions.size:
            raise CokvError(f"plan: no coalitions in an array of shape {self.coalitions.shape}, expected at least one")

    @property
    def num_players(self) -> int:
        return int(self.coalitions.shape[1])

    @property
    def num_draws(self) -> int:
        return int(self.draw.max()) + 1

    def part(self, rows: BoolArray) -> Plan:
        """Some rows (bool [K]), in the same order, their draws numbered anew; at least one."""
        draws = np.unique(self.draw[rows], return_inverse=True)[1]
        return Plan(self.coalitions[rows], self.stratum[rows], draws, self.stage[rows])

    @property
    def evaluations(self) -> int:
        """Distinct coalitions: what the plan costs a caller that never evaluates one twice."""
        return len(distinct(self.coalitions)[0])


@dataclass(frozen=True, eq=False)
class Estimate:
    """Scores of all players, with their errors and counts. NaN where the draws do not define a number."""

    values: FloatArray  # [num_players]
    standard_error: FloatArray  # [num_players], in the unit of values; NaN from a single draw
    counts: IntArray  # [num_players] distinct contributions behind each value
    evaluations: int  # distinct coalitions
    missing: IntArray  # [num_players] strata in which the player was never drawn; its mean skips them

    def to_json(self) -> dict[str, JSON]:
        return {
            "values": json_numbers(self.values),
            "standard_error": json_numbers(self.standard_error),
            "counts": [int(count) for count in self.counts],
            "missing": [int(count) for count in self.missing],
            "evaluations": self.evaluations,
        }


class Estimator(ABC):
    """A recipe that plans coalitions and turns their utilities into one score per player."""

    @abstractmethod
    def plan(self, num_players: int, seed: int) -> Plan:
        """The coalitions to evaluate: the same ones for the same seed."""

    @abstractmethod
    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        """Scores from utilities [K] in the plan's order; raises where a player was never drawn."""

    @abstractmethod
    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        """Scores [B, num_players] with draw d counted weights[b, d] times; NaN where no weight falls on a player."""

    def refine(self, plan: Plan, utilities: FloatArray, seed: int) -> Plan:
        """A longer plan that begins with this one, chosen by its utilities; the plan itself when it is complete, as
        most estimators' first plan is. `seed`: the one of `plan`.
        """
        return plan

    @property
    def independent_draws(self) -> bool:
        """Whether the draws of a plan are independent. Where they are not, a half of one run is worse than a run of
        half the length, and two runs of different seeds are compared instead.
        """
        return True

    def estimate(self, game: Game, num_players: int, seed: int) -> Estimate:
        """Plan, evaluate every distinct coalition once, refine until the plan is complete, aggregate."""
        plan = self.plan(num_players, seed)
        utilities = evaluate(game, plan.coalitions)
        while len((longer := self.refine(plan, utilities, seed)).coalitions) > len(plan.coalitions):
            plan, utilities = longer, evaluate_rest(game, longer, utilities)
        return self.aggregate(plan, utilities)


def evaluate(game: Game, coalitions: BoolArray, batch_size: int = 4096) -> FloatArray:
    """Utilities [R] of coalitions [R, num_players]; each distinct coalition reaches the game once, in batches."""
    rows, inverse = distinct(coalitions)
    batches = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        batches.append(checked_utilities(game(batch), len(batch)))
    return np.concatenate(batches)[inverse]


def evaluate_rest(game: Game, plan: Plan, utilities: FloatArray) -> FloatArray:
    """Utilities [K] of a plan whose first rows have `utilities`; their coalitions are not evaluated again."""
    rows, inverse = distinct(plan.coalitions)
    values = np.full(len(rows), np.nan)
    values[inverse[: len(utilities)]] = utilities
    new = np.isnan(values)
    if new.any():
        values[new] = evaluate(game, rows[new])
    return values[inverse]


def checked_utilities(utilities: FloatArray, expected: int) -> FloatArray:
    """The utilities as float64 [expected]. Raises CokvError where they are not finite numbers of that shape."""
    array = np.asarray(utilities, dtype=np.float64)
    if array.shape != (expected,):
        raise CokvError(f"utilities have shape {array.shape}, expected ({expected},): one number per coalition")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise CokvError(
            f"utility of row {bad[0]} is {array[bad[0]]} ({bad.size} of {expected} are not finite), expected numbers; "
            "evaluate these coalitions first, or aggregate a plan of fewer draws"
        )
    return array


def distinct(coalitions: BoolArray) -> tuple[BoolArray, IntArray]:
    """Distinct rows [D, num_players] in the order of their first appearance, and each coalition's index in them [R]."""
    packed = np.packbits(np.asarray(coalitions, dtype=np.bool_), axis=1)
    _, first, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return coalitions[first[order]], rank[inverse.reshape(-1)]


def merge_plans(plans: Sequence[Plan]) -> Plan:
    """The plans one after the other, as one run with all their draws. Utilities are concatenated alike."""
    if len({plan.num_players for plan in plans}) != 1:
        raise CokvError(f"plans have {[plan.num_players for plan in plans]} players, expected one and the same number")
    offsets = np.cumsum([0, *(plan.num_draws for plan in plans[:-1])])
    return Plan(
        coalitions=np.concatenate([plan.coalitions for plan in plans]),
        stratum=np.concatenate([plan.stratum for plan in plans]),
        draw=np.concatenate([plan.draw + offset for plan, offset in zip(plans, offsets, strict=True)]),
        stage=np.concatenate([plan.stage for plan in plans]),
    )


def alternating_rows(plans: Sequence[Plan]) -> IntArray:
    """Rows of `merge_plans(plans)` in turn: the first draw of every plan, then the second of every plan, and so on."""
    return np.argsort(np.concatenate([plan.draw for plan in plans]), kind="stable")


def checked_players(num_players: int) -> int:
    if num_players < 1:
        raise CokvError(f"a game of {num_players} players, expected at least 1")
    return int(num_players)


def json_numbers(values: FloatArray) -> list[JSON]:
    """A flat list of numbers, None for NaN and infinities, which JSON has not."""
    return [float(value) if math.isfinite(value) else None for value in values]
