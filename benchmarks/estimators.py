"""Error and reliability against evaluations of every estimator, on games whose Shapley values are known.

    python benchmarks/estimators.py [--seeds 12] [--game LEDGER] [--out benchmarks/results/estimators.json]
    python benchmarks/estimators.py --players 256 --seeds 4 --out benchmarks/results/estimators_256.json

An evaluation is one distinct coalition; with a language model it is one pass over the validation prompts. Reported
per budget, mean over seeds: the error against the Shapley value (mean absolute, times n, so that 1.0 is the stop
rule's 1/n), against the estimator's own target (SSV over few sizes is another value than Shapley's, leave-one-out
too), Spearman's correlation with the Shapley value, which is what a budget allocator uses, and how well two runs
agree; and from that, the evaluations that a given split-half reliability needs. Beside the JSON stands a figure of it.

Without --game: sums of unanimity games, players who can replace each other, and prompts answered or not (thresholds of
noisy sums, the mean over eight); above 20 players only the first, whose answer is known. With --game: every game of a
ledger that holds all coalitions, as benchmarks/exact_game.py evaluates them."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy  # type: ignore[import-untyped]  # scipy ships no types
from curves import TARGETS, evaluations_needed, measure, needed_table, paper_sizes, table
from worlds.toy import interactions
from worlds.whole import WholeGame

from cokv.game.exact import MAX_PLAYERS
from cokv.game.ledger import Ledger
from cokv.game.plan import BoolArray, Game
from cokv.types import CokvError, FloatArray
from reports.estimator_plot import estimator_figure
from reports.style import save


def saturating(coalitions: BoolArray) -> FloatArray:
    """Players who can replace each other: 1 - prod(1 - w_i) over the members, w from a long tail."""
    worth = np.random.default_rng(1).uniform(0.0, 1.0, coalitions.shape[1]) ** 3 * 0.5
    return np.asarray(1.0 - np.prod(np.where(coalitions, 1.0 - worth, 1.0), axis=1))


def answered(coalitions: BoolArray) -> FloatArray:
    """The share of eight prompts that are answered: a prompt is when its players' worth, alone and in pairs, exceeds
    its threshold. As rough as an exact match over few prompts.
    """
    n, generator = coalitions.shape[1], np.random.default_rng(1)
    base = generator.exponential(1.0, n) ** 2
    members, share = coalitions.astype(np.float64), np.zeros(len(coalitions))
    for _ in range(8):
        worth = base * generator.exponential(1.0, n)
        pairs = generator.normal(0.0, 0.3, (n, n)) * np.sqrt(np.outer(base, base) / n)
        total = members @ worth + np.einsum("ri,ij,rj->r", members, pairs, members)
        share += total > generator.uniform(0.3, 0.7) * worth.sum()
    return share / 8.0


def toy_games(players: int) -> Iterator[tuple[str, int, Game, FloatArray | None]]:
    """Name, number of players, game, and its Shapley value where no enumeration is needed for it."""
    sums = interactions(players, seed=1)
    yield sums.name, players, sums, sums.shapley
    if players <= MAX_PLAYERS:
        for game in (saturating, answered):
            yield game.__name__, players, WholeGame.played(game.__name__, game, players), None


def recorded_games(path: Path) -> Iterator[tuple[str, int, Game, FloatArray | None]]:
    with Ledger(path, create=False) as ledger:
        for recorded in ledger.games():
            yield recorded.name, recorded.num_players, WholeGame.of(recorded), None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Error and reliability against evaluations of every estimator.")
    parser.add_argument("--seeds", type=int, default=12, help="independent runs per row")
    parser.add_argument("--players", type=int, default=16, help="of the toy games")
    parser.add_argument("--game", type=Path, help="a ledger of whole games; without it, toy games")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "estimators.json")
    options = parser.parse_args(arguments)
    try:
        games = list(recorded_games(options.game) if options.game else toy_games(options.players))
    except CokvError as error:
        raise SystemExit(str(error)) from None
    rows = [row for name, n, game, shapley in games for row in measure(name, game, n, options.seeds, shapley)]
    needed = evaluations_needed(rows)
    print(table(rows), needed_table(needed), sep="\n\n")
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "games": [{"name": name, "num_players": n, "slice_sizes": list(paper_sizes(n))} for name, n, _, _ in games],
        "units": "errors are mean absolute errors times num_players; evaluations are distinct coalitions",
        "reliability_targets": list(TARGETS),
        "rows": rows,
        "needed": needed,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(options.out, *save(estimator_figure(rows), options.out.parent, options.out.stem, "svg"), sep="\n")


if __name__ == "__main__":
    main()
