"""Error and reliability of every estimator against evaluations, on games whose every coalition is known.

Reliability of E evaluations: two independent runs of E/2 each correlate with r (mean over all pairs of seeds), and the
two together are worth 2r / (1 + r) (Spearman-Brown): what a split-half reliability of one run of E estimates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cokv.game.estimators import (
    AdaptiveSlicedShapley,
    AdjustedSlicedShapley,
    ComplementaryContributions,
    LeaveOneOut,
    PermutationSampling,
    SlicedShapley,
)
from cokv.game.exact import MAX_PLAYERS, exact_shapley, exact_sliced_shapley
from cokv.game.plan import Estimator, Game, Plan
from cokv.game.stability import spearman
from cokv.types import CokvError, FloatArray

BUDGETS = (32, 64, 128, 256, 512, 1024, 2048)
TARGETS = (0.8, 0.9, 0.95)
LEAVE_ONE_OUT = "leave one out"


@dataclass(frozen=True)
class Nested(SlicedShapley):
    """SSV whose sizes share random orders: a draw's coalition of a size lies inside its coalition of the next size.

    Unbiased, and here to be measured only: see cokv.game.draws.
    """

    def plan(self, num_players: int, seed: int) -> Plan:
        generator = np.random.default_rng(seed)
        orders = [generator.permutation(num_players) for _ in range(self.coalitions_per_size)]
        place = np.repeat(np.argsort(orders, axis=1), len(self.slice_sizes), axis=0)  # [draws, n] place in the order
        sizes = np.tile(self.slice_sizes, len(orders))
        members = place < sizes[:, None]
        return Plan(
            coalitions=np.stack([members, ~members], axis=1).reshape(-1, num_players),
            stratum=np.repeat(sizes, 2),
            draw=np.repeat(np.arange(len(sizes)), 2),
        )


def paper_sizes(num_players: int) -> tuple[int, ...]:
    """An eighth, a quarter, three eighths and a half of the players, as CoKV has 32 to 128 of 256."""
    return tuple(sorted({max(num_players * share // 8, 1) for share in (1, 2, 3, 4)}))


def candidates(budget: int, n: int) -> dict[str, Estimator]:
    """One estimator of every kind, with as many draws as fit the budget of evaluations, and at least four."""
    sizes = paper_sizes(n)
    pair, all_sizes = 2 * len(sizes), 2 * ((n + 1) // 2)
    kinds: dict[str, tuple[int, Callable[[int], Estimator]]] = {
        "SSV": (pair, lambda draws: SlicedShapley(sizes, draws)),
        "SSV, official": (pair, lambda draws: SlicedShapley(sizes, draws, "official")),
        "SSV, nested sizes": (pair, lambda draws: Nested(sizes, draws)),
        "SSV, pilot and Neyman": (
            pair,
            lambda draws: AdaptiveSlicedShapley(sizes, draws, draws // 3 + 1, "independent"),
        ),
        "SSV, balanced": (pair, lambda draws: SlicedShapley(sizes, draws, draws="balanced")),
        "SSV, adjusted": (pair, lambda draws: AdjustedSlicedShapley(sizes, draws - draws % 2)),
        "all sizes": (all_sizes, ComplementaryContributions),
        "all sizes, balanced": (all_sizes, lambda draws: ComplementaryContributions(draws, "balanced")),
        "permutations": (n - 1, PermutationSampling),
        "permutations, antithetic": (n - 1, lambda draws: PermutationSampling(draws - draws % 2, antithetic=True)),
    }
    chosen = {name: make(budget // cost) for name, (cost, make) in kinds.items() if budget // cost >= 4}
    return chosen | {LEAVE_ONE_OUT: LeaveOneOut()}


def target(estimator: Estimator, game: Game, num_players: int) -> FloatArray:
    """What the estimator converges to."""
    if isinstance(estimator, (SlicedShapley, AdjustedSlicedShapley, AdaptiveSlicedShapley)):
        value = exact_sliced_shapley(game, num_players, estimator.slice_sizes)
        official = isinstance(estimator, SlicedShapley) and estimator.aggregation == "official"
        return value * (len(estimator.slice_sizes) if official else 1)
    if isinstance(estimator, LeaveOneOut):
        return estimator.estimate(game, num_players, seed=0).values
    return exact_shapley(game, num_players)


def measure(
    name: str, game: Game, num_players: int, seeds: int, shapley: FloatArray | None = None
) -> list[dict[str, Any]]:
    """A row per budget and estimator. What the draws do not define (no order, or no draw of a player) is absent.

    Budgets grow with the number of players. `shapley`: the Shapley value where it is known; needed above 20 players,
    which leave out the error against another target.
    """
    n, rows = num_players, []
    exact = n <= MAX_PLAYERS
    shapley = exact_shapley(game, n) if shapley is None else shapley
    targets: dict[str, FloatArray] = {}
    scale = max(n // 16, 1)
    budgets = [scale * budget for budget in (BUDGETS if exact else BUDGETS[:4]) if scale * budget <= 2**n] or [2**n]
    for budget in budgets:
        for kind, estimator in candidates(budget, n).items():
            single = isinstance(estimator, LeaveOneOut)
            if single and budget != budgets[0]:
                continue
            if exact and kind not in targets:
                targets[kind] = target(estimator, game, n)
            try:
                runs = [estimator.estimate(game, n, seed) for seed in range(1 if single else seeds)]
            except CokvError:  # too few draws: some run has no draw of some player
                continue
            values = np.stack([run.values for run in runs])
            orders = [rank for run in values if (rank := spearman(run, shapley)) is not None]
            row: dict[str, Any] = {
                "game": name,
                "estimator": kind,
                "evaluations": float(np.mean([run.evaluations for run in runs])),
                "error_shapley": float(np.abs(values - shapley).mean() * n),
                "runs": len(runs),
            }
            if exact:
                row["error_own_target"] = float(np.abs(values - targets[kind]).mean() * n)
            if orders:
                row["spearman"] = float(np.mean(orders))
            if not single and (agreement := mean_correlation(values)) is not None:
                row["agreement"] = agreement
                row["reliability_of_two"] = 2 * agreement / (1 + agreement) if agreement > 0 else agreement
            rows.append(row)
    return rows


def mean_correlation(values: FloatArray) -> float | None:
    """Mean Pearson correlation of all pairs of runs [runs, n] that have any spread."""
    spread = values[np.ptp(values, axis=1) > 0]
    if len(spread) < 2:
        return None
    return float(np.corrcoef(spread)[np.triu_indices(len(spread), 1)].mean())


def evaluations_needed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations that a run needs for each target reliability, per game and estimator, interpolated in the logarithm.

    `at_most` marks a target met by the smallest run measured. A target that no run meets has no row.
    """
    needed = []
    for game, kind in dict.fromkeys((row["game"], row["estimator"]) for row in rows):
        points = [
            (2 * row["evaluations"], row["reliability_of_two"])
            for row in rows
            if (row["game"], row["estimator"]) == (game, kind) and "reliability_of_two" in row
        ]
        for wanted in TARGETS:
            for i, (cost, reached) in enumerate(points):
                if reached < wanted:
                    continue
                if i:
                    before, low = points[i - 1]
                    cost = math.exp(np.interp(wanted, [low, reached], [math.log(before), math.log(cost)]))
                needed.append(
                    {"game": game, "estimator": kind, "reliability": wanted, "evaluations": round(cost)}
                    | ({} if i else {"at_most": True})
                )
                break
    return needed


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"{'game':<18} {'estimator':<26} {'evaluations':>11} {'n x error':>10} {'own target':>11} {'Spearman':>9}"
        f" {'agreement':>10}"
    ]
    for row in sorted(rows, key=lambda row: (row["game"], row["estimator"], row["evaluations"])):
        own_error, order, agreement = (
            f"{row[key]:.3f}" if key in row else "" for key in ("error_own_target", "spearman", "agreement")
        )
        lines.append(
            f"{row['game']:<18} {row['estimator']:<26} {row['evaluations']:>11.0f} {row['error_shapley']:>10.3f}"
            f" {own_error:>11} {order:>9} {agreement:>10}"
        )
    return "\n".join(lines)


def needed_table(needed: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'evaluations for a reliability of':<45} {' '.join(f'{wanted:>8g}' for wanted in TARGETS)}"]
    for game, kind in dict.fromkeys((row["game"], row["estimator"]) for row in needed):
        cells = {
            row["reliability"]: ("<=" if row.get("at_most") else "") + str(row["evaluations"])
            for row in needed
            if (row["game"], row["estimator"]) == (game, kind)
        }
        shown = " ".join(cells.get(wanted, "more").rjust(8) for wanted in TARGETS)
        lines.append(f"{game:<18} {kind:<26} {shown}")
    return "\n".join(lines)
