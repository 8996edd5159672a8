"""Four ways to score heads in worlds where the truth is known: one table.

    python benchmarks/planted_worlds.py [--out benchmarks/results/planted_worlds.json]

Every score is exact (all coalitions are evaluated), so what differs is what is measured, not how well. The last world
is played by a transformer with hand-set weights (worlds.planted) through the same engine as any model; its
utilities are compared with the plain function's, coalition by coalition, and must be equal."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from worlds.planted import attention_on_needle, planted_game, planted_model, planted_prompts
from worlds.role_games import EVERYTHING_ROLES, WORLDS, RoleGame, everything_by_question, views

from cokv.game.exact import all_coalitions
from cokv.types import FloatArray

COLUMNS = {
    "leave_one_out": "leave-one-out",
    "alone": "head alone",
    "attention": "attention on answer",
    "sliced": "SSV",
    "shapley": "Shapley",
}
LEGEND = (
    "leave-one-out: U(N) - U(N without i), blind to substitutes. Head alone: U({i}) - U(empty), blind to complements "
    "and to harm. Attention on answer: how often a head's attention is highest on the generated answer; it cannot "
    "tell a head that looks from one that speaks. SSV: read the order, not the sign: null players mark what is worth "
    "nothing. Shapley: null is 0, harm is negative, and the values sum to U(N)."
)


def slice_sizes(num_players: int) -> tuple[int, ...]:
    """As in CoKV: sizes up to half of the players."""
    return tuple(range(max(num_players // 4, 1), num_players // 2 + 1))


def rows_of(name: str, roles: tuple[str, ...], scores: Mapping[str, FloatArray]) -> list[dict[str, Any]]:
    return [
        {
            "world": name,
            "player": player,
            "role": role,
            **{key: float(values[player]) for key, values in scores.items()},
        }
        for player, role in enumerate(roles)
    ]


def transformer_rows(prompts_per_question: int, seed: int) -> list[dict[str, Any]]:
    model, prompts = planted_model(), planted_prompts(prompts_per_question, seed)
    game = planted_game(model, prompts)
    coalitions = all_coalitions(game.num_players)
    utilities = game.per_prompt(coalitions)
    expected = everything_by_question(coalitions)[:, [prompt.kind for prompt in prompts]]
    if not np.array_equal(utilities, expected):
        wrong = int((utilities != expected).any(axis=1).sum())
        raise SystemExit(f"the transformer differs from its world in {wrong} of {len(coalitions)} coalitions")
    scores = views(game, game.num_players, slice_sizes(game.num_players))
    return rows_of("transformer", EVERYTHING_ROLES, scores | {"attention": attention_on_needle(model, prompts)})


def function_rows(world: RoleGame) -> list[dict[str, Any]]:
    return rows_of(world.name, world.roles, views(world, world.num_players, slice_sizes(world.num_players)))


def table(rows: list[dict[str, Any]]) -> Table:
    screen = Table(title="What each score says of a head", caption=LEGEND, caption_justify="left")
    for name in ("world", "players", "role"):
        screen.add_column(name)
    for title in COLUMNS.values():
        screen.add_column(title, justify="right")
    shown: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        cells = [f"{row[key]:.3f}".replace("-0.000", "0.000") if key in row else "" for key in COLUMNS]
        shown.setdefault((row["world"], row["role"], *cells), []).append(row["player"])
    last = None
    for (world, role, *cells), players in shown.items():
        if world != last and last is not None:
            screen.add_section()
        screen.add_row(world if world != last else "", ", ".join(map(str, players)), role, *cells)
        last = world
    return screen


def main() -> None:
    parser = argparse.ArgumentParser(description="Four ways to score heads in worlds with known answers.")
    parser.add_argument("--prompts", type=int, default=4, help="transformer prompts per kind of question")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "planted_worlds.json")
    options = parser.parse_args()
    rows = [row for world in WORLDS[:-1] for row in function_rows(world())]
    rows += transformer_rows(options.prompts, options.seed)
    Console(width=None if sys.stdout.isatty() else 120).print(table(rows))
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "slice_sizes": {str(n): list(slice_sizes(n)) for n in (4, len(EVERYTHING_ROLES))},
        "legend": LEGEND,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
