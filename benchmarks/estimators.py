"""Error against evaluations of every estimator, on games whose Shapley values are known.

    python benchmarks/estimators.py [--seeds 30] [--out benchmarks/results/estimators.json]

An evaluation is one distinct coalition; with a language model it is one pass over the validation prompts. Reported
per budget, mean over seeds: the error against the Shapley value (mean absolute, times n, so that 1.0 is the stop
rule's 1/n), against the estimator's own target (SSV over few sizes is another value than Shapley's, leave-one-out
too), and Spearman's correlation with the Shapley value, which is what a budget allocator uses."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy  # type: ignore[import-untyped]  # scipy ships no types

from cokv.game.estimators import (
    ComplementaryContributions,
    Estimator,
    LeaveOneOut,
    PermutationSampling,
    SlicedShapley,
)
from cokv.game.exact import exact_shapley, exact_sliced_shapley
from cokv.game.plan import BoolArray
from cokv.game.stability import spearman
from cokv.game.toy import ToyGame, interactions
from cokv.types import FloatArray

NUM_PLAYERS = 16
BUDGETS = (64, 128, 256, 512, 1024, 2048)


def saturating(num_players: int, seed: int) -> ToyGame:
    """Players who can replace each other: 1 - prod(1 - w_i) over the members, w from a long tail; solved exactly."""
    worth = np.random.default_rng(seed).uniform(0.0, 1.0, num_players) ** 3 * 0.5

    def utility(coalitions: BoolArray) -> FloatArray:
        return np.asarray(1.0 - np.prod(np.where(coalitions, 1.0 - worth, 1.0), axis=1))

    return ToyGame("saturating", num_players, utility, exact_shapley(utility, num_players))


def candidates(budget: int, n: int) -> dict[str, Estimator]:
    """One estimator of every kind, with as many draws as fit the budget of evaluations."""
    kinds: dict[str, tuple[int, Callable[[int], Estimator]]] = {
        "sliced, sizes 2 4 6 8": (2 * 4, lambda draws: SlicedShapley((2, 4, 6, 8), draws)),
        "sliced, sizes 2 4 6 8, official": (2 * 4, lambda draws: SlicedShapley((2, 4, 6, 8), draws, "official")),
        "sliced, size 8": (2, lambda draws: SlicedShapley((8,), draws)),
        "complementary, all sizes": (2 * (n // 2), ComplementaryContributions),
        "permutation": (n - 1, PermutationSampling),
        "permutation, antithetic": (n - 1, lambda draws: PermutationSampling(draws - draws % 2, antithetic=True)),
    }
    chosen = {name: make(budget // cost) for name, (cost, make) in kinds.items() if budget // cost >= 2}
    return chosen | {"leave one out": LeaveOneOut()}


def target(estimator: Estimator, game: ToyGame) -> FloatArray:
    """What the estimator converges to."""
    if isinstance(estimator, SlicedShapley):
        value = exact_sliced_shapley(game, game.num_players, estimator.slice_sizes)
        return value * (len(estimator.slice_sizes) if estimator.aggregation == "official" else 1)
    if isinstance(estimator, LeaveOneOut):
        return estimator.estimate(game, game.num_players, seed=0).values
    return game.shapley


def measure(game: ToyGame, seeds: int) -> list[dict[str, str | int | float]]:
    n = game.num_players
    rows: list[dict[str, str | int | float]] = []
    for budget in BUDGETS:
        for name, estimator in candidates(budget, n).items():
            if isinstance(estimator, LeaveOneOut) and budget != BUDGETS[0]:
                continue
            repeats = 1 if isinstance(estimator, LeaveOneOut) else seeds
            runs = [estimator.estimate(game, n, seed) for seed in range(repeats)]
            values = np.stack([run.values for run in runs])
            correlations = [spearman(run, game.shapley) for run in values]
            rows.append(
                {
                    "game": game.name,
                    "estimator": name,
                    "evaluations": float(np.mean([run.evaluations for run in runs])),
                    "error_shapley": float(np.abs(values - game.shapley).mean() * n),
                    "error_own_target": float(np.abs(values - target(estimator, game)).mean() * n),
                    "spearman": float(np.mean([value for value in correlations if value is not None])),
                    "runs": len(runs),
                }
            )
    return rows


def table(rows: Sequence[dict[str, str | int | float]]) -> str:
    lines = [f"{'game':<13} {'estimator':<32} {'evaluations':>11} {'n x error':>10} {'own target':>11} {'Spearman':>9}"]
    for row in sorted(rows, key=lambda row: (row["game"], row["estimator"], row["evaluations"])):
        lines.append(
            f"{row['game']:<13} {row['estimator']:<32} {row['evaluations']:>11.0f} {row['error_shapley']:>10.3f}"
            f" {row['error_own_target']:>11.3f} {row['spearman']:>9.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Error against evaluations of every Shapley estimator.")
    parser.add_argument("--seeds", type=int, default=30, help="independent runs per row")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "estimators.json")
    options = parser.parse_args()
    games = [interactions(NUM_PLAYERS, seed=1), saturating(NUM_PLAYERS, seed=1)]
    rows = [row for game in games for row in measure(game, options.seeds)]
    print(table(rows))
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "num_players": NUM_PLAYERS,
        "units": "errors are mean absolute errors times num_players; evaluations are distinct coalitions",
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
