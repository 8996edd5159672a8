"""A decode step on compressed caches: against the bound, DynamicCache, StaticCache, our full cache, the weights alone.

    python benchmarks/decode.py --quick                  (a model of 100 M parameters on this CPU, three minutes)
    python benchmarks/decode.py --prompt 8192 --batch 1 32 --methods h2o tova scissorhands cake fastgen arkvale kivi4
    python benchmarks/decode.py --shape llama-3-8b --device cuda --dtype bfloat16 --prompt 8192 --batch 1 32 --static

Random weights of a known shape: speed does not depend on the text. Every row of a batch holds its own copy of one
prompt. Arms take turns of a few steps; a figure is the median over the rounds with the least and the most beside it, a
ratio is formed round by round. transformers' caches run on a model that nothing of ours is attached to.

"weights" is that model with hardly a token in its cache: what no compression can save, and what "net" is without, in
both terms of the ratio. "bound" is the time in which this device sums the weights once and as many bytes as the cache
holds once. "even" and "uneven" hold tokens spread over the prompt, as many per head, and as unlike as head scores make
budgets (the largest about 3.6 times the mean).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch._inductor.config as inductor
from decode_arms import (
    DYNAMIC,
    MADE_UP,
    STATIC,
    WEIGHTS,
    Decoding,
    arm_name,
    backends,
    free_bytes,
    made_once,
    time_limit,
)
from measuring import Record, Step, Table, in_turns, mib, parser, spread, summary
from random_models import SHAPES, PlainTokenizer, drawn_prefill, random_ids, random_model, twin

from cokv import probes
from cokv.cache.attention import choose
from cokv.cache.attention.attachment import attach
from cokv.cache.prefill import prefill
from cokv.methods.method import prefill_requirements
from cokv.methods.registry import get_method
from cokv.types import CokvError

METHODS = ("full", "snapkv", "even", "uneven", "h2o", "kivi4")
GIB = 1 << 30
RATIOS = {
    "to_DynamicCache": "/ DynamicCache",
    "net_to_DynamicCache": "net / DynamicCache",
    "to_full": "/ ours full",
    "to_snapkv": "/ SnapKV",
    "to_bound": "/ bound",
}


def arms_of(decoding: Decoding, kv_budget: int, args: Any, kept: bool, steps: int, record: Record) -> dict[str, Any]:
    """What prepares each arm; the record hears of those that are left out."""
    read = decoding.read
    where = f"{read.seq_len} tokens, batch {decoding.batch}, {kv_budget} slots"
    size, free = read.full_bytes * decoding.batch, free_bytes(args.device)
    fits = size * 1.1 < free
    too_large = f"a full cache of {size / GIB:.1f} GiB does not fit into the {free / GIB:.1f} GiB that are free"
    arms: dict[str, Callable[[], Step]] = {WEIGHTS: decoding.weights}
    if fits:
        arms[DYNAMIC] = decoding.dynamic
    else:
        record.leave_out(f"{DYNAMIC} ({where})", too_large)
    if args.static and not kept:
        record.leave_out(f"{STATIC} ({where})", "its cache cannot be made anew each turn; raise --keep-gib")
    elif args.static:
        try:
            arms[STATIC] = made_once(lambda: compiled(decoding, steps, args.device, args.compile_seconds))
        except Exception as error:  # a compiler that is missing, a model it cannot follow, too long
            record.leave_out(f"{STATIC} ({where})", " ".join(f"{type(error).__name__}: {error}".split())[:200])
    ours = [(name, choose.AUTO) for name in args.methods]
    ours += [(name, backend) for name in args.methods if name in MADE_UP for backend in args.attention]
    for name, backend in ours:
        try:
            if not fits and keeps_all(name):
                raise CokvError(too_large)
            arms[arm_name(name, backend)] = decoding.ragged(name, kv_budget, backend)
        except CokvError as error:
            record.leave_out(f"{arm_name(name, backend)} ({where})", str(error))
    return arms


def compiled(decoding: Decoding, steps: int, device: str, seconds: int) -> Step:
    """Steps on a StaticCache that torch.compile has made ready. Raises what the compiler raises, and TimeoutError."""
    begun = time.monotonic()
    try:
        with time_limit(seconds):
            mode = "reduce-overhead" if device.startswith("cuda") else None
            if mode is None:
                inductor.compile_threads = 1  # in this process, which can be interrupted
            step = decoding.static(steps, torch.compile(decoding.plain.forward, mode=mode))
            step(), step()
            return step
    except Exception as error:
        if time.monotonic() - begun >= seconds:  # the compiler may have wrapped it in another error
            raise TimeoutError(f"compiling took more than {seconds} s") from error
        raise


def keeps_all(name: str) -> bool:
    """Whether it holds about as many bytes as a full cache on the way."""
    return name not in MADE_UP and not get_method(name).takes_budget


@torch.no_grad()
def measure(decoding: Decoding, kv_budget: int, args: Any, record: Record) -> dict[str, Any]:
    device, read, batch = args.device, decoding.read, decoding.batch
    kept = read.full_bytes * batch * (sum(map(keeps_all, args.methods)) + 2) <= args.keep_gib * GIB
    untimed = 0 if kept else 2  # a cache that has just been made pays for its first step alone
    steps = (args.rounds + 1) * (args.block + untimed) + 4
    arms = arms_of(decoding, kv_budget, args, kept, steps, record)
    if kept:
        arms = {name: made_once(prepare) for name, prepare in arms.items()}
    else:
        for name in arms:
            arms[name]()  # to know its bytes
    bounds = {f"read {size}": size for size in sorted(set(decoding.bytes.values()))}
    work = {**arms, "read the weights": decoding.weights_read}
    for name, size in bounds.items():
        work[name] = lambda size=size: decoding.bytes_read(size)  # type: ignore[misc]
    if kept:
        work = {name: made_once(prepare) for name, prepare in work.items()}
    times = in_turns(work, args.rounds, args.block, untimed, device, args.clock)
    return {
        "prompt": read.seq_len,
        "kv_budget": kv_budget,
        "batch": batch,
        "rounds": args.rounds,
        "block": args.block,
        "clock": args.clock,
        "attention": choose.choose(decoding.model.device, decoding.model.dtype, read.shape.head_dim),
        "caches": "kept" if kept else "made anew each turn",
        "arms": {name: figures(times, name, decoding.bytes.get(name)) for name in arms},
    }


def figures(times: Mapping[str, list[float]], name: str, size: int | None) -> dict[str, Any]:
    """Of one arm, from seconds per round."""
    row: dict[str, Any] = {"step_ms": summary([1000 * t for t in times[name]]), "cache_bytes": size}
    for base in (DYNAMIC, "full", "snapkv"):
        if base in times:
            row[f"to_{base}"] = probes.ratio_summary(times, name, base)
    if name == WEIGHTS:
        return row
    compared = [arm for arm in (name, DYNAMIC) if arm in times]
    net = {arm: [a - w for a, w in zip(times[arm], times[WEIGHTS], strict=True)] for arm in compared}
    row["net_step_ms"] = summary([1000 * t for t in net[name]])
    if min(net.get(DYNAMIC, [0.0])) > 0:
        row["net_to_DynamicCache"] = probes.ratio_summary(net, name, DYNAMIC)
    bound = [w + c for w, c in zip(times["read the weights"], times[f"read {size}"], strict=True)]
    row["bound_ms"] = summary([1000 * t for t in bound])
    row["to_bound"] = probes.ratio_summary({"arm": times[name], "bound": bound}, "arm", "bound")
    return row


def tables(record: Mapping[str, Any]) -> list[Table]:
    made = []
    for result in record["results"]:
        rows = []
        for name, row in result["arms"].items():
            shown = [spread(row.get(key)) for key in RATIOS]
            rows.append([name, spread(row["step_ms"]), *shown, mib(row["cache_bytes"])])
        title = f"{result['prompt']} tokens, batch {result['batch']}, mean budget {result['kv_budget']}"
        note = f"{result['rounds']} rounds in turns of {result['block']} steps, {result['clock']} time"
        note += f"; attention by {result['attention']} where none is named"
        columns = ("", "ms per step", *RATIOS.values(), "MiB")
        made.append(Table(title, columns, rows, f"{note}; caches {result['caches']}."))
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(SHAPES), default="100m")
    options.add_argument("--prompt", type=int, nargs="+", default=[8192], help="tokens")
    options.add_argument("--budget", type=int, nargs="+", default=[128], help="mean slots per KV head")
    options.add_argument("--batch", type=int, nargs="+", default=[1])
    options.add_argument("--methods", nargs="+", default=list(METHODS), help="methods without a profile; even, uneven")
    options.add_argument("--attention", nargs="*", default=[], help="backends for even, uneven; all: all here")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--block", type=int, default=4, help="steps of a turn")
    options.add_argument("--static", action="store_true", help="also StaticCache under torch.compile")
    options.add_argument("--compile-seconds", type=int, default=120)
    options.add_argument("--drawn", action="store_true", help="draw K, V and queries, read no prompt")
    options.add_argument("--keep-gib", type=float, help="caches are made anew each turn beyond; default 4, CUDA 40")
    args = options.parse_args(arguments)
    if args.quick:
        args.prompt, args.batch, args.rounds, args.block = [2048], [1, 8], 5, 3
    args.keep_gib = args.keep_gib or (40 if args.device.startswith("cuda") else 4)
    args.methods = list(dict.fromkeys(("full", "snapkv", *args.methods)))
    model = random_model(args.shape, args.device, getattr(torch, args.dtype))
    plain = twin(model)
    args.attention = backends(model) if args.attention == ["all"] else args.attention
    attach(model)
    record = Record("decode", arguments, args.out, shape=args.shape, dtype=args.dtype, drawn=args.drawn)
    window, observers = prefill_requirements([get_method(name) for name in args.methods if name not in MADE_UP])
    for prompt in args.prompt:
        if args.drawn:
            read = drawn_prefill(model, prompt, window)
        else:
            read = prefill(model, random_ids(model, prompt), window, observers, PlainTokenizer())
        for batch in args.batch:
            for budget in args.budget:
                record.add(measure(Decoding(model, plain, read, batch), budget, args, record))
    return record.content


if __name__ == "__main__":
    main()
