"""What sampling the process and its GPUs costs: decode steps with the thread beside them and without, in turns.

    python benchmarks/probe_cost.py --quick
    python benchmarks/probe_cost.py --shape llama-3-8b --device cuda --dtype bfloat16

A turn is so many steps of one token on a compressed cache; with an arm for each interval between two samples. On a
machine without a GPU only the process is sampled. "sampling" is the share of the time in which the thread was looking.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from measuring import CLOCKS, Record, Table, parser, spread, summary
from random_models import SHAPES, drawn_prefill, random_model

from cokv import probes
from cokv.cache.attention.attachment import attach
from cokv.cache.cache import RaggedCache
from cokv.cache.compat import cache_argument
from cokv.methods.registry import get_method

WITHOUT = "not sampled"


@torch.no_grad()
def measure(args: Any) -> dict[str, Any]:
    model = random_model(args.shape, args.device, getattr(torch, args.dtype))
    attach(model)
    read = drawn_prefill(model, args.prompt, 32)
    cache = RaggedCache.of(read, [get_method("streamingllm").select(read, 128)])
    ids = torch.ones(1, 1, dtype=torch.long, device=model.device)
    position = torch.full_like(ids, args.prompt)
    now = CLOCKS[args.clock]
    arms: dict[str, float | None] = {WITHOUT: None, **{f"every {x:g} s": x for x in args.interval}}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    sampling: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(args.rounds + 1):
        for name, interval in arms.items():
            with nullcontext() if interval is None else probes.sampled([args.device], interval) as samples:
                probes.synchronize(args.device)
                start, until = now(), time.perf_counter() + args.seconds
                steps = 0
                while time.perf_counter() < until or steps == 0:
                    model(input_ids=ids, position_ids=position, **cache_argument(cache), use_cache=True)
                    position += 1
                    steps += 1
                probes.synchronize(args.device)
                spent = (now() - start) / steps
            if turn:
                seconds[name].append(spent)
                if samples is not None:
                    sampling[name].append(samples.result["share_of_time_sampling"])
    rows = {
        name: {
            "step_ms": summary([1000 * t for t in each]),
            "to_not_sampled": probes.ratio_summary(seconds, name, WITHOUT),
            **({"share_of_time_sampling": summary(sampling[name])} if sampling[name] else {}),
        }
        for name, each in seconds.items()
    }
    return {"rounds": args.rounds, "turn_seconds": args.seconds, "clock": args.clock, "arms": rows}


def tables(record: Mapping[str, Any]) -> list[Table]:
    all_tables = []
    for result in record["results"]:
        rows = []
        for name, row in result["arms"].items():
            share = row.get("share_of_time_sampling")
            percent = "-" if share is None else f"{100 * share['median']:.3f} %"
            rows.append([name, spread(row["step_ms"]), spread(row["to_not_sampled"], 3), percent])
        note = f"{result['rounds']} rounds in turns of {result['turn_seconds']:g} s, {result['clock']} time."
        all_tables.append(Table("A step", ("", "ms", "/ not sampled", "sampling"), rows, note))
    return all_tables


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(SHAPES), default="100m")
    options.add_argument("--prompt", type=int, default=1024, help="tokens")
    options.add_argument("--interval", type=float, nargs="+", default=[0.1, 0.01], help="seconds between samples")
    options.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    options.add_argument("--rounds", type=int, default=9)
    args = options.parse_args(arguments)
    if args.quick:
        args.rounds = 5
    record = Record("probe_cost", arguments, args.out, shape=args.shape, dtype=args.dtype)
    record.add(measure(args))
    return record.content


if __name__ == "__main__":
    main()
