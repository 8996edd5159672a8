"""How costs grow: a decode step with the context, the rows and the players, and choosing tokens with the context.

    python benchmarks/scaling.py --quick
    python benchmarks/scaling.py --context 1024 4096 16384 65536 --rows 1 4 16 64

Each part varies one thing; arms take turns at every value. The exponent is the slope of log cost over log value: 0 is
a cost that does not grow, 1 one that grows in proportion. Steps are net of the weights (a cache of hardly a token).
Players are (layer, KV head) pairs, at 16 query heads and the same slots per player. Prompts are drawn, not read: K, V
and queries at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from decode_arms import DYNAMIC, WEIGHTS, Decoding, made_once
from measuring import CLOCKS, Record, Table, in_turns, parser, spread, summary
from random_models import SHAPES, drawn_prefill, random_model, twin
from transformers import PreTrainedModel

from cokv import probes
from cokv.cache.attention.attachment import attach
from cokv.cache.prefill import Prefill
from cokv.methods.registry import get_method

ARMS = ("full", "even", "uneven")
CHOOSERS = ("streamingllm", "knorm", "snapkv", "pyramidkv", "adakv", "tova", "cake")


@torch.no_grad()
def steps(model: PreTrainedModel, plain: PreTrainedModel, read: Prefill, rows: int, args: Any) -> dict[str, Any]:
    """Milliseconds of a step per arm, net of the weights, over the rounds."""
    decoding = Decoding(model, plain, read, rows)
    prepare = {WEIGHTS: decoding.weights, DYNAMIC: decoding.dynamic}
    work = {**prepare, **{name: decoding.ragged(name, args.budget) for name in ARMS}}
    kept = {name: made_once(make) for name, make in work.items()}
    times = in_turns(kept, args.rounds, args.block, device=args.device, clock=args.clock)
    weights = times.pop(WEIGHTS)
    return {name: summary([1000 * (a - w) for a, w in zip(t, weights, strict=True)]) for name, t in times.items()}


@torch.no_grad()
def choices(read: Prefill, args: Any) -> dict[str, Any]:
    """Milliseconds in which each method chooses what stays of a prompt that has been read."""
    now = CLOCKS[args.clock]
    methods = {name: get_method(name) for name in CHOOSERS}
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(args.rounds + 1):
        for name, method in methods.items():
            probes.synchronize(args.device)
            start = now()
            method.select(read, args.budget)
            probes.synchronize(args.device)
            if turn:
                times[name].append(1000 * (now() - start))
    return {name: summary(each) for name, each in times.items()}


def exponent(values: Sequence[float], costs: Sequence[float]) -> float | None:
    """Slope of log cost over log value; None where a cost is lost in the noise."""
    if len(values) < 2 or min(costs) <= 0:
        return None
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def grown(part: str, unit: str, points: Mapping[int, Mapping[str, Any]], args: Any) -> dict[str, Any]:
    arms = {name: [point[name] for point in points.values()] for name in next(iter(points.values()))}
    return {
        "part": part,
        "unit": unit,
        "values": list(points),
        "kv_budget": args.budget,
        "rounds": args.rounds,
        "clock": args.clock,
        "arms": {
            name: {"ms": each, "exponent": exponent(list(points), [cost["median"] for cost in each])}
            for name, each in arms.items()
        },
    }


def tables(record: Mapping[str, Any]) -> list[Table]:
    made = []
    for result in record["results"]:
        rows = [
            [name, *(spread(cost) for cost in row["ms"]), "-" if row["exponent"] is None else f"{row['exponent']:.2f}"]
            for name, row in result["arms"].items()
        ]
        note = f"Milliseconds, {result['rounds']} rounds, {result['clock']} time; mean budget {result['kv_budget']}."
        columns = ("", *(f"{value} {result['unit']}" for value in result["values"]), "exponent")
        made.append(Table(result["part"], columns, rows, note))
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(SHAPES), default="100m")
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--context", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    options.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    options.add_argument("--kv-heads", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    options.add_argument("--budget", type=int, default=128, help="mean slots per KV head")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--block", type=int, default=4, help="steps of a turn")
    args = options.parse_args(arguments)
    if args.quick:
        args.context, args.rows, args.kv_heads = [1024, 2048, 4096], [1, 4, 16], [2, 4, 8]
        args.rounds = 5
    changes = {"num_hidden_layers": args.layers}
    model = random_model(args.shape, args.device, getattr(torch, args.dtype), **changes)
    plain = twin(model)
    attach(model)
    record = Record("scaling", arguments, args.out, shape=args.shape, layers=args.layers, dtype=args.dtype)
    reads = {tokens: drawn_prefill(model, tokens, 64) for tokens in args.context}
    each: dict[int, Any] = {tokens: steps(model, plain, read, 1, args) for tokens, read in reads.items()}
    record.add(grown("A step, net of the weights, by context", "tokens", each, args))
    each = {tokens: choices(read, args) for tokens, read in reads.items()}
    record.add(grown("Choosing what stays, by context", "tokens", each, args))
    middle = reads[sorted(reads)[len(reads) // 2]]
    each = {rows: steps(model, plain, middle, rows, args) for rows in args.rows}
    record.add(grown(f"A step, net of the weights, by rows ({middle.seq_len} tokens)", "rows", each, args))
    each = {}
    for heads in args.kv_heads:
        model = random_model(args.shape, args.device, getattr(torch, args.dtype), **changes, num_key_value_heads=heads)
        plain = twin(model)
        attach(model)
        read = drawn_prefill(model, middle.seq_len, 64)
        each[heads * args.layers] = steps(model, plain, read, 1, args)
    record.add(grown(f"A step, net of the weights, by players ({middle.seq_len} tokens)", "players", each, args))
    return record.content


if __name__ == "__main__":
    main()
