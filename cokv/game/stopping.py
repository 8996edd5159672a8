"""When a game may stop: the state of two independent halves while they are evaluated, and the stop rules.

    plan, rows = merge_plans(halves), alternating_rows(halves)      # rows of the plan in the order to evaluate them
    state = live_state(estimator, halves, (utilities_a, utilities_b), seconds)     # NaN: not evaluated yet
    reason = StopRules(mae=True, reliability=0.9, evaluations=2000, minutes=10).verdict(state)     # None: go on

Halves are plans of two seeds, evaluated in turn so that both are equally long whenever a run stops. Only complete draws
count (both sides of a pair, all of an order), so a state is defined after any block. Nothing here evaluates a game or
reads a clock.

A rule that is checked again and again stops at a lucky moment: the reliability at which a run stopped is a little too
high. `min_evaluations` delays the accuracy rules past the first few draws, where chance is largest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from cokv.game.plan import Estimate, Estimator, Plan, distinct, merge_plans
from cokv.game.stability import mean_absolute_error, spearman, split_half_reliability, two_run_reliability
from cokv.types import JSON, CokvError, FloatArray

SPLITS = 20  # halvings behind a live reliability


@dataclass(frozen=True)
class GameState:
    """Two halves after some coalitions. None: not defined yet, since a half has no draw of a size or of a player."""

    evaluations: int  # distinct coalitions evaluated, in both halves together
    planned: int  # distinct coalitions of both halves
    draws: tuple[int, int]  # complete draws of each half
    missing: int  # (player, size) pairs that a half has no draw of yet; accuracy rules wait until there are none
    seconds: float  # spent on `fresh` evaluations
    fresh: int  # evaluations in these seconds: fewer than `evaluations` where a run was resumed
    mae: float | None  # mean absolute difference between the halves' scores, in the unit of the scores
    threshold: float  # the paper's bound on it: utility range / number of players
    spearman: float | None  # between the halves' scores
    reliability: float | None  # of all draws together: split-half, stepped up by Spearman-Brown

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, until everything planned is evaluated; None before the first evaluation."""
        return self.seconds / self.fresh * (self.planned - self.evaluations) if self.fresh else None

    def to_json(self) -> dict[str, JSON]:
        """Undefined measures are absent."""
        fields = {**asdict(self), "draws": list(self.draws)}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class StopRules:
    """A run ends when every accuracy rule that is set holds, or when any budget that is set is spent.

    mae: the paper's rule, MAE between two independent runs < 1/n (CoKV, arXiv 2502.17501). It can be met by noise,
    since the spread between players may itself be below 1/n; set a reliability too, and both must hold.
    """

    mae: bool = False
    reliability: float | None = None  # at least this, between 0 and 1
    evaluations: int | None = None  # budget: distinct coalitions
    minutes: float | None = None  # budget: of `GameState.seconds`
    min_evaluations: int = 0  # accuracy rules are not checked before

    def __post_init__(self) -> None:
        if self.reliability is not None and not 0.0 < self.reliability < 1.0:
            raise CokvError(f"reliability = {self.reliability}, expected a target between 0 and 1, such as 0.9")
        for name in ("evaluations", "minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise CokvError(f"{name} = {value}, expected a budget above 0; leave it out for no such budget")
        if self.min_evaluations < 0:
            raise CokvError(f"min_evaluations = {self.min_evaluations}, expected at least 0")

    def verdict(self, state: GameState) -> str | None:
        """Why the run may stop, as a sentence; None to go on."""
        return self._accurate(state) or self._spent(state)

    def _accurate(self, state: GameState) -> str | None:
        reasons = []
        if self.mae:
            if state.mae is None or not state.mae < state.threshold:
                return None
            reasons.append(f"MAE {state.mae:.4f} between halves is below {state.threshold:.4f}")
        if self.reliability is not None:
            if state.reliability is None or state.reliability < self.reliability:
                return None
            reasons.append(f"reliability {state.reliability:.3f} is at least {self.reliability:g}")
        if not reasons or state.missing or state.evaluations < self.min_evaluations:
            return None
        return f"{' and '.join(reasons)}, after {state.evaluations} coalitions"

    def _spent(self, state: GameState) -> str | None:
        if self.evaluations is not None and state.evaluations >= self.evaluations:
            return f"{state.evaluations} coalitions evaluated, the budget is {self.evaluations}"
        if self.minutes is not None and state.seconds >= 60.0 * self.minutes:
            return f"{state.seconds / 60.0:.1f} minutes spent, the budget is {self.minutes:g}"
        return None


def live_state(
    estimator: Estimator,
    halves: tuple[Plan, Plan],
    utilities: tuple[FloatArray, FloatArray],
    seconds: float,
    fresh: int | None = None,
    utility_range: float = 1.0,
    seed: int = 0,
) -> GameState:
    """The state of two halves whose utilities (float64, one per row of each plan) are NaN where not evaluated yet.

    seconds: spent so far by this process; fresh: the evaluations in that time, by default all.
    utility_range: 1 for utilities in 0..1, 100 for percent. seed: of the random halvings behind the reliability.
    """
    if np.array_equal(halves[0].coalitions, halves[1].coalitions):
        raise CokvError("both halves evaluate the same coalitions in the same order, expected plans of two seeds")
    for plan, values in zip(halves, utilities, strict=True):
        if np.shape(values) != (len(plan.coalitions),):
            raise CokvError(
                f"utilities have shape {np.shape(values)}, expected ({len(plan.coalitions)},), NaN if unknown"
            )
    pooled, evaluated = merge_plans(halves), np.isfinite(np.concatenate(utilities))
    evaluations = len(distinct(pooled.coalitions[evaluated])[0]) if evaluated.any() else 0
    parts = [complete_draws(plan, values) for plan, values in zip(halves, utilities, strict=True)]
    scores = [_scores(estimator, part) for part in parts]
    mae = rank = reliability = None
    missing = pooled.num_players
    if scores[0] is not None and scores[1] is not None:
        first, second = scores[0].values, scores[1].values
        mae, rank = mean_absolute_error(first, second), spearman(first, second)
        missing = int(scores[0].missing.sum() + scores[1].missing.sum())
        if estimator.independent_draws:
            done = [part for part in parts if part is not None]
            complete_pooled = merge_plans([plan for plan, _ in done])
            known_values = np.concatenate([values for _, values in done])
            reliability = split_half_reliability(estimator, complete_pooled, known_values, seed, SPLITS)
        else:
            reliability = two_run_reliability(first, second)
    return GameState(
        evaluations=evaluations,
        planned=pooled.evaluations,
        draws=(_count(parts[0]), _count(parts[1])),
        missing=missing,
        seconds=seconds,
        fresh=evaluations if fresh is None else fresh,
        mae=mae,
        threshold=utility_range / pooled.num_players,
        spearman=rank,
        reliability=reliability,
    )


def complete_draws(plan: Plan, utilities: FloatArray) -> tuple[Plan, FloatArray] | None:
    """The draws of a plan all of whose rows are evaluated, with their utilities; None if there is none."""
    incomplete = np.unique(plan.draw[~np.isfinite(utilities)])
    rows = ~np.isin(plan.draw, incomplete)
    if not rows.any():
        return None
    return plan.part(rows), np.asarray(utilities)[rows]


def _scores(estimator: Estimator, part: tuple[Plan, FloatArray] | None) -> Estimate | None:
    """The estimate from complete draws; None while there is none of a size, or of a player."""
    try:
        return None if part is None else estimator.aggregate(*part)
    except CokvError:  # a size without a coalition, or a player never drawn
        return None


def _count(part: tuple[Plan, FloatArray] | None) -> int:
    return 0 if part is None else part[0].num_draws
