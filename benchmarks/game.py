"""The head game against the loop it replaces: prefill and generate for every coalition and every prompt.

    python benchmarks/game.py [--task TASK] [--utility metric probability] [--out benchmarks/results/game.json]
    python benchmarks/game.py --shape llama-3-8b --device cuda --dtype bfloat16 --prompt 8192 --out game_gpu.json

The naive loop is transformers' own `generate` with its own cache; once the prompt is read, heads outside the coalition
no longer see it but for its last tokens. Its arms run a sample of the coalitions, ours all of them, in turns; times are
per coalition, and what a whole run takes is extrapolated for the sampled arms, as the record says. Arms differ by one
thing each, so that the gain is split: prompts prefilled once; coalitions as rows of one batch; rows that have ended
leave it; what rows have in common computed once. Utilities must be identical in all arms (in bfloat16, where the order
of a sum changes it, the share of identical ones is reported).

With --shape the model has random weights of a known model's shape, its answers have no end, and the time of the
paper's protocol is projected: 4 slice sizes x 250 coalitions x 2 sides x 30 prompts, 32 new tokens each.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from game_naive import naive
from game_worlds import PROTOCOL, SHAPES, GameWorld, embedded, random_weights

from cokv import probes
from cokv.cache.prefill import Prefill, prefill
from cokv.decode.decode import Stop, decode
from cokv.game.plan import BoolArray
from cokv.game.players import coalition_rows
from cokv.game.utility import HeadGame
from cokv.types import FloatArray

NAIVE, ONE, BATCHED, LEAVING, OURS = (
    "naive: prefill and generate",
    "prompts prefilled once",
    "coalitions in a batch",
    "ended rows leave",
    "common work once",
)


def run_on(prefills: list[Prefill], world: GameWorld, coalitions: BoolArray, **settings: Any) -> FloatArray:
    prompts = [replace(prompt, prefill=p) for prompt, p in zip(world.prompts, prefills, strict=True)]
    return HeadGame(world.model, prompts, world.window_size, **settings).per_prompt(coalitions)


def without_leaving(prefills: list[Prefill], world: GameWorld, max_bytes: int) -> FloatArray:
    """All rows generate as many tokens as any may; what follows a row's end is cut off afterwards."""
    utilities = np.empty((len(world.coalitions), len(prefills)))
    for column, (prompt, source) in enumerate(zip(world.prompts, prefills, strict=True)):
        rows = coalition_rows(world.coalitions, source, world.window_size)
        endless = Stop(prompt.stop.max_new_tokens)
        answers = decode(world.model, source, rows, endless, way="shared", max_bytes=max_bytes)
        utilities[:, column] = [prompt.judge(_cut(answer.tokens, prompt.stop)) for answer in answers]
    return utilities


def _cut(tokens: list[int], stop: Stop) -> list[int]:
    ends = [place for place, token in enumerate(tokens) if token in stop.stop_ids]
    return tokens[: ends[0] + 1] if ends else tokens


def compare(world: GameWorld, utility: str, sample: int, repeats: int) -> dict[str, Any]:
    """Times all arms in turns, and asserts that they agree."""
    sampled = world.coalitions[np.linspace(0, len(world.coalitions) - 1, sample).astype(int)]
    prefills = [prefill(world.model, ids, 1) for ids in world.ids]
    utilities: dict[str, FloatArray] = {}

    def arm(name: str, work: Callable[[], FloatArray]) -> Callable[[], None]:
        def go() -> None:
            utilities[name] = work()

        return go

    settings: dict[str, Any] = {"utility": utility, "max_bytes": world.max_bytes}
    arms: dict[str, Callable[[], object]] = {
        NAIVE: arm(NAIVE, lambda: naive(world, sampled, utility)),
        "prefill": lambda: [prefill(world.model, ids, 1) for ids in world.ids],
        ONE: arm(ONE, lambda: run_on(prefills, world, sampled, way="shared", utility=utility, max_bytes=1)),
    }
    ends = utility == "metric" and any(prompt.stop.stop_ids for prompt in world.prompts)
    if ends:
        arms[BATCHED] = arm(BATCHED, lambda: without_leaving(prefills, world, world.max_bytes))
    shared = LEAVING if ends else BATCHED
    arms[shared] = arm(shared, lambda: run_on(prefills, world, world.coalitions, way="shared", **settings))
    arms[OURS] = arm(OURS, lambda: run_on(prefills, world, world.coalitions, **settings))
    seconds = probes.interleaved(arms, repeats, warmup=1, device=world.model.device)
    return {"utility": utility, **agreement(world, utilities, sampled, utility), **gains(world, seconds, sample)}


def agreement(world: GameWorld, utilities: dict[str, FloatArray], sampled: BoolArray, utility: str) -> dict[str, Any]:
    """Whether all arms have the same utilities on the coalitions they share; asserted in float32."""
    ref = utilities[OURS]
    places = [int(np.flatnonzero((world.coalitions == coalition).all(1))[0]) for coalition in sampled]
    close = 0.0 if utility == "metric" else 1e-5
    same = {n: np.abs(u - (ref if len(u) == len(ref) else ref[places])) <= close for n, u in utilities.items()}
    if world.model.dtype == torch.float32:
        for name, equal in same.items():
            assert equal.all(), f"{name}: {int((~equal).sum())} of {equal.size} utilities are not those of {OURS!r}"
    return {
        "identical_utilities": {name: float(equal.mean()) for name, equal in same.items() if name != OURS},
        "distinct_utilities": len(np.unique(ref.round(6))),
        "mean_utility": float(ref.mean()),
    }


def gains(world: GameWorld, seconds: dict[str, list[float]], sample: int) -> dict[str, Any]:
    """Seconds of a whole run in each arm, turn by turn, and their ratios."""
    count = len(world.coalitions)
    runs: dict[str, list[float]] = {}
    rows: dict[str, Any] = {}
    for name, durations in seconds.items():
        if name == "prefill":
            continue
        evaluated = sample if name in (NAIVE, ONE) else count
        before = [0.0] * len(durations) if name == NAIVE else seconds["prefill"]
        runs[name] = [p + t * count / evaluated for p, t in zip(before, durations, strict=True)]
        rows[name] = {
            "coalitions_evaluated": evaluated,
            "extrapolated": evaluated < count,
            "ms_per_coalition_and_prompt": 1000 * statistics.median(durations) / evaluated / len(world.prompts),
            "run_seconds": statistics.median(runs[name]),
        }
    order = list(runs)
    return {
        "prefill_seconds": statistics.median(seconds["prefill"]),
        "arms": rows,
        "gain_of_each": {b: probes.ratio_summary(runs, a, b) for a, b in pairwise(order)},
        "speedup": probes.ratio_summary(runs, NAIVE, OURS),
    }


def projected(result: dict[str, Any], new_tokens: int) -> dict[str, Any]:
    """The paper's protocol at the measured speed: evaluations of all coalitions on all prompts, and their prefills."""
    prompts = PROTOCOL["prompts"]
    count = len(PROTOCOL["slice_sizes"]) * PROTOCOL["coalitions_per_size"] * 2 * prompts
    rows = {name: row["ms_per_coalition_and_prompt"] / 1000 for name, row in result["arms"].items()}
    minutes = {
        n: (count * s + (0 if n == NAIVE else prompts * result["prefill_seconds"])) / 60 for n, s in rows.items()
    }
    return {
        "protocol": PROTOCOL | {"new_tokens": new_tokens},
        "evaluations": count,
        "coalitions_per_second": {name: 1 / s for name, s in rows.items()},
        "minutes": minutes,
        "speedup": minutes[NAIVE] / minutes[OURS],
    }


def show(result: dict[str, Any]) -> None:
    print(f"utility {result['utility']}: {result['speedup']['median']:.1f} times the naive loop")
    for name, row in result["arms"].items():
        gain = result["gain_of_each"].get(name)
        print(
            f"  {name:<28} {row['ms_per_coalition_and_prompt']:9.2f} ms per coalition and prompt, "
            f"{row['run_seconds']:9.2f} s a run{' (extrapolated)' if row['extrapolated'] else ''}"
            + ("" if gain is None else f", x {gain['median']:.2f}")
        )
    if "projection" in result:
        minutes = result["projection"]["minutes"]
        print(f"  the paper's protocol: {minutes[OURS]:.1f} minutes, naive {minutes[NAIVE]:.0f}")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="niah_multikey_1", help="RULER task of the embedded model")
    parser.add_argument("--utility", nargs="+", choices=["metric", "probability"], default=["metric", "probability"])
    parser.add_argument("--sample", type=int, default=3, help="coalitions of the naive arms")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-mib", type=int, help="bound of a batch; default 256, on CUDA 8192")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights instead of the embedded model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompt", type=int, default=8192, help="tokens, with --shape")
    parser.add_argument("--new-tokens", type=int, default=PROTOCOL["new_tokens"], help="with --shape")
    parser.add_argument("--coalitions", type=int, default=125, help="per slice size, with --shape")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    mib = args.max_mib or (8192 if args.device.startswith("cuda") else 256)
    if args.shape:
        world = random_weights(
            args.shape, args.device, args.dtype, args.prompt, args.new_tokens, args.coalitions, mib << 20
        )
    else:
        world = embedded(args.task, mib << 20)
    results = []
    for utility in args.utility:
        result = compare(world, utility, args.sample, args.repeats)
        if args.shape:
            result["projection"] = projected(result, args.new_tokens)
        show(result)
        results.append(result)
    record = {
        "command": shlex.join(["python", "benchmarks/game.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "machine": probes.machine(),
        "versions": probes.versions(),
        **world.facts,
        "coalitions": len(world.coalitions),
        "prompts": len(world.prompts),
        "repeats": args.repeats,
        "max_mib": mib,
        "results": results,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    main()
