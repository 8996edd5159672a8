"""The exact Shapley values of a real head game, and the error of every estimator on it.

    python benchmarks/exact_game.py cost     [--task niah_multikey_1] [--length 256] [--prompts 8]
    python benchmarks/exact_game.py evaluate --out DIR [the same] [--minutes 10]
    python benchmarks/exact_game.py report   --out DIR [--json FILE] [--figures DIR]

`cost` times four blocks and estimates the time of all 2^n coalitions. `evaluate` records every coalition with its
utility on each prompt in DIR/whole.sqlite, block by block: it may be stopped at any time and goes on where it was, and
several processes may share the work (--part 0/2 and --part 1/2 on one DIR).
`report` needs no model. It reads the record and writes the exact scores, how far leave-one-out, a head alone and SSV
agree with the Shapley value in order and sign, and error, order and agreement of every estimator against evaluations;
with a figure of these."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from claims import claims
from curves import TARGETS, evaluations_needed, measure, needed_table, paper_sizes, table
from worlds.whole import WholeGame, evaluate_whole, in_blocks

from cokv import probes
from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop
from cokv.game.exact import MAX_PLAYERS
from cokv.game.identity import canonical
from cokv.game.ledger import Ledger
from cokv.game.recorded import RecordedGame
from cokv.game.utility import GamePrompt, HeadGame
from cokv.model.loading import EMBEDDED, LoadedModel, load_model
from cokv.types import JSON, CokvError
from reports.estimator_plot import estimator_figure
from reports.style import save
from ruler.errors import RulerError
from ruler.generate import generate
from ruler.scoring import score

RESULTS = Path(__file__).parent / "results"
RECORD = "whole.sqlite"


def head_game(loaded: LoadedModel, options: argparse.Namespace) -> tuple[HeadGame, dict[str, JSON]]:
    """The game over RULER prompts, and its identity: all that can change a utility."""
    prompts, read = [], []
    for sample in generate(options.task, loaded.tokenizer, options.length, options.prompts, options.seed, "mini"):
        ids = torch.tensor(loaded.tokenizer.encode(sample.prompt), dtype=torch.int64)
        stop = Stop(sample.tokens_to_generate, loaded.eos_ids)

        def judge(tokens: list[int], sample: Any = sample) -> float:
            return score(sample, loaded.tokenizer.decode(tokens, skip_special_tokens=True)) / 100

        prompts.append(GamePrompt(prefill(loaded.model, ids), stop, judge))
        read.append([ids.tolist(), list(sample.outputs), stop.max_new_tokens, list(stop.stop_ids)])
    game = HeadGame(loaded.model, prompts, options.window)
    if game.num_players > MAX_PLAYERS:
        raise CokvError(
            f"{game.num_players} players have 2^{game.num_players} coalitions, expected at most {MAX_PLAYERS} players; "
            "use a smaller model"
        )
    versions = probes.versions()
    identity: dict[str, JSON] = {
        "model": dict(loaded.identity()),
        "task": options.task,
        "length": options.length,
        "seed": options.seed,
        "prompts": hashlib.sha256(canonical(read).encode()).hexdigest()[:16],
        "utility": "metric",
        "first_token": "prefill",
        "window_size": options.window,
        "versions": {name: versions[name] for name in ("torch", "transformers", "tokenizers") if name in versions},
    }
    return game, identity


def cost(options: argparse.Namespace) -> float:
    """Minutes that the whole game will take, from four blocks far apart."""
    game, _ = head_game(load_model(options.model), options)
    blocks = list(in_blocks(game.num_players, options.block))
    chosen = blocks[len(blocks) // 8 :: max(len(blocks) // 4, 1)][:4]
    game.per_prompt(blocks[0][:1])
    start = time.perf_counter()
    for block in chosen:
        game.per_prompt(block)
    seconds = (time.perf_counter() - start) / len(chosen)
    minutes = seconds * len(blocks) / 60
    print(
        f"{len(blocks[0])} coalitions on {len(game.prompts)} prompts: {seconds:.2f} s; "
        f"all {2**game.num_players}: about {minutes:.1f} minutes"
    )
    return minutes


def evaluate(options: argparse.Namespace) -> RecordedGame:
    options.out.mkdir(parents=True, exist_ok=True)
    game, identity = head_game(load_model(options.model), options)
    with Ledger(options.out / RECORD) as ledger:
        recorded = ledger.game(f"{options.task} at {options.length}", identity, game.num_players, len(game.prompts))
        before = len(recorded)
        evaluate_whole(game.per_prompt, recorded, options.block, progress(before, options.minutes), options.part)
        recorded = next(entry for entry in ledger.games() if entry.name == recorded.name)  # with what others recorded
        left = 2**game.num_players - len(recorded)
        print(f"{options.out / RECORD}: " + (f"{left} coalitions left, run again" if left else "complete"))
        return recorded


def progress(before: int, minutes: float | None) -> Callable[[int, int], bool]:
    """Says now and then how far it is; ends the work when its time is over."""
    start = last = time.monotonic()

    def go_on(done: int, total: int) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last > 20 or done == total:
            left = (now - start) / (done - before) * (total - done)
            print(f"{done}/{total} coalitions, about {left / 60:.1f} minutes of work left", file=sys.stderr, flush=True)
            last = now
        return minutes is None or now - start < 60 * minutes

    return go_on


def report(options: argparse.Namespace) -> dict[str, Any]:
    with Ledger(options.out / RECORD, create=False) as ledger:
        recorded = ledger.games()
        games = [WholeGame.of(entry) for entry in recorded]
        identities = [entry.identity for entry in recorded]
    rows = [row for game in games for row in measure(game.name, game, game.num_players, options.seeds)]
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), **probes.versions()},
        "units": "errors are mean absolute errors times num_players; evaluations are distinct coalitions",
        "reliability_targets": list(TARGETS),
        "games": [
            {
                "name": game.name,
                "num_players": game.num_players,
                "slice_sizes": list(paper_sizes(game.num_players)),
                "identity": identity,
                **claims(game),
            }
            for game, identity in zip(games, identities, strict=True)
        ],
        "rows": rows,
        "needed": evaluations_needed(rows),
    }
    print(table(rows), needed_table(record["needed"]), *map(claims_text, record["games"]), sep="\n\n")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(options.json, *save(estimator_figure(rows), options.figures, options.json.stem, "svg"), sep="\n")
    return record


def claims_text(game: dict[str, Any]) -> str:
    heads = game["heads"]
    lines = [
        f"{game['name']}: U(all) = {game['utility_of_all']:.3f}, U(none) = {game['utility_of_none']:.3f}",
        f"{'score':<24} {'Spearman':>9} {'same order':>11} {'same sign':>10} {'mean':>8}",
    ]
    for name, row in game["agreement_with_shapley"].items():
        rank, order = (f"{row[key]:.3f}" if key in row else "" for key in ("spearman", "same_order"))
        lines.append(f"{name:<24} {rank:>9} {order:>11} {row['same_sign']:>10.2f} {game['mean_level'][name]:>8.3f}")
    lines.append(
        f"{heads['worth_more_than_half_a_share']} heads are worth more than half of an equal share; of these "
        f"leave-one-out gives {heads['of_these_not_seen_by_leave_one_out']} nothing or less, and "
        f"{heads['of_these_not_seen_alone']} do nothing alone. {heads['harmful']} heads are harmful."
    )
    return "\n".join(lines)


def part(text: str) -> tuple[int, int]:
    index, _, parts = text.partition("/")
    if not (index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}, expected I/K with 0 <= I < K, such as 0/2")
    return int(index), int(parts)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exact Shapley values of a real head game.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("cost", "time four blocks"), ("evaluate", "record all coalitions"), ("report", "no model")):
        command = commands.add_parser(name, help=about)
        if name != "cost":
            command.add_argument("--out", type=Path, required=True, help="folder of the record")
        if name == "report":
            command.add_argument("--seeds", type=int, default=12, help="independent runs per estimator and budget")
            command.add_argument("--json", type=Path, default=RESULTS / "exact_game.json")
            command.add_argument("--figures", type=Path, default=RESULTS, help="folder of the figure, PNG and SVG")
            continue
        command.add_argument("--model", default=EMBEDDED, help="`embedded`, or a folder with a model")
        command.add_argument("--task", default="niah_multikey_1")
        command.add_argument("--length", type=int, default=256, help="tokens of prompt and answer")
        command.add_argument("--prompts", type=int, default=8)
        command.add_argument("--seed", type=int, default=7)
        command.add_argument("--window", type=int, default=8, help="last prompt tokens that all heads keep")
        command.add_argument("--block", type=int, default=256, help="coalitions evaluated, and recorded, at a time")
        if name == "evaluate":
            command.add_argument("--minutes", type=float, help="stop after the block in which this time is over")
            command.add_argument(
                "--part", type=part, default=(0, 1), metavar="I/K", help="every K-th block from the I-th"
            )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> Any:
    options = parsed(arguments)
    try:
        return {"cost": cost, "evaluate": evaluate, "report": report}[options.command](options)
    except (CokvError, RulerError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
