"""How alike four utilities rank the heads of the embedded model, and how much the first answer token matters.

    python benchmarks/game_agreement.py [--tasks TASK ...] [--coalitions 60] [--out FILE]

Per task one game on the embedded experiment's validation prompts, the same coalitions for every utility: Spearman's
correlation of the head scores, each utility's split-half reliability (what a correlation is bounded by), the share of
the top quarter that both name, and the same between first_token "prefill" and "compressed".
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from game_worlds import embedded
from worlds.agreement import Agreement, first_token_effect, utility_agreement

from cokv import probes
from cokv.game.estimators import SlicedShapley
from cokv.game.utility import HeadGame

TASKS = ("niah_multikey_1", "niah_multivalue", "vt", "qa_1")


def show(title: str, agreement: Agreement) -> None:
    def number(value: float | None) -> str:
        return "    -" if value is None else f"{value:5.2f}"

    print(f"{title}, {agreement.num_coalitions} coalitions")
    for name, value in agreement.reliability.items():
        print(f"  {name:<15} reliability {number(value)}")
    for (a, b), value in agreement.spearman.items():
        print(f"  {a:<15} {b:<15} Spearman {number(value)}, top quarter shared {agreement.top_shared[a, b]:.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="RULER tasks of the embedded model")
    parser.add_argument("--coalitions", type=int, default=60, help="per slice size")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    results: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for task in args.tasks:
        world = embedded(task, 256 << 20)
        game = HeadGame(world.model, world.prompts, world.window_size)
        estimator = SlicedShapley(tuple(world.facts["slice_sizes"]), args.coalitions)
        utilities = utility_agreement(game, estimator, seed=0)
        first = first_token_effect(game, estimator, seed=0)
        show(f"{task}: utilities", utilities)
        show(f"{task}: first token", first)
        results[task] = {"utilities": utilities.to_json(), "first_token": first.to_json()}
        facts = {key: world.facts[key] for key in ("model", "digest", "slice_sizes")} | {"prompts": len(world.prompts)}
    if args.out:
        record = {
            "command": shlex.join(
                ["python", "benchmarks/game_agreement.py", *(sys.argv[1:] if arguments is None else arguments)]
            ),
            "machine": probes.machine(),
            "versions": probes.versions(),
            **facts,
            "coalitions_per_size": args.coalitions,
            "results": results,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
