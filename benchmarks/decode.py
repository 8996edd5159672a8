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

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from measuring import Record, Step, Table, in_turns, mib, parser, spread, summary
from random_models import SHAPES, PlainTokenizer, drawn_prefill, random_ids, random_model, twin, uneven_selection
from transformers import DynamicCache, PreTrainedModel, StaticCache

from cokv import probes
from cokv.cache.attention.attachment import attach
from cokv.cache.cache import RaggedCache
from cokv.cache.compat import cache_argument
from cokv.cache.policies.growth import Grow
from cokv.cache.prefill import Prefill, prefill
from cokv.methods.method import prefill_requirements
from cokv.methods.registry import get_method
from cokv.types import CokvError, Selection

METHODS = ("full", "snapkv", "even", "uneven", "h2o", "kivi4")
MADE_UP = ("even", "uneven")
DYNAMIC, STATIC, WEIGHTS = "DynamicCache", "StaticCache, compiled", "weights"
GIB = 1 << 30
RATIOS = {
    "to_DynamicCache": "/ DynamicCache",
    "net_to_DynamicCache": "net / DynamicCache",
    "to_full": "/ ours full",
    "to_snapkv": "/ SnapKV",
    "to_bound": "/ bound",
}


class Decoding:
    """One model, one prompt, one batch size: what makes each arm's cache, and its steps."""

    def __init__(self, model: PreTrainedModel, plain: PreTrainedModel, read: Prefill, batch: int) -> None:
        self.model, self.plain, self.read, self.batch = model, plain, read, batch
        self.bytes: dict[str, int] = {}  # of each arm's cache

    def step(self, model: Callable[..., Any], cache: Any, position: int) -> Step:
        """Reads one token per row and gives its logits; every call is the next token."""
        ids = torch.ones(self.batch, 1, dtype=torch.long, device=self.plain.device)
        positions = torch.full((self.batch, 1), position, device=self.plain.device)

        def go() -> None:
            model(input_ids=ids, position_ids=positions, **cache_argument(cache), use_cache=True, logits_to_keep=1)
            positions.add_(1)

        return go

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        return states[None].expand(self.batch, -1, -1, -1).contiguous()

    def dynamic(self) -> Step:
        cache = DynamicCache(config=self.plain.config)
        for layer in self.read.layers:
            cache.update(self.rows(layer.keys), self.rows(layer.values), layer.layer_idx)
        self.bytes[DYNAMIC] = probes.storage_bytes(t for x in cache.layers for t in (x.keys, x.values))
        return self.step(self.plain, cache, self.read.seq_len)

    def weights(self) -> Step:
        return self.step(self.plain, DynamicCache(config=self.plain.config), 0)

    def static(self, steps: int, compiled: Callable[..., Any]) -> Step:
        tokens = self.read.seq_len
        cache = StaticCache(config=self.plain.config, max_cache_len=tokens + steps)
        places = {"cache_position": torch.arange(tokens, device=self.plain.device)}
        for layer in self.read.layers:
            cache.update(self.rows(layer.keys), self.rows(layer.values), layer.layer_idx, places)
        self.bytes[STATIC] = probes.storage_bytes(t for x in cache.layers for t in (x.keys, x.values))
        return self.step(compiled, cache, tokens)

    def ragged(self, name: str, kv_budget: int) -> Callable[[], Step]:
        """Raises CokvError where the method cannot meet the budget on this prompt."""
        read, shape = self.read, self.read.shape
        policy: Any = Grow()
        if name == "uneven":
            selection = uneven_selection(read, kv_budget)
        elif name == "even":
            selection = _even(read, kv_budget)
        else:
            method = get_method(name)
            budget = kv_budget if method.takes_budget else None
            selection = method.select(read, budget)
            policy = method.bound_policy(budget, read.seq_len, shape.num_layers, shape.num_kv_heads)

        def prepare() -> Step:
            cache = RaggedCache.of(read, [selection] * self.batch, [policy] * self.batch)
            self.bytes[name] = sum(row.bytes + row.host_bytes for row in cache.held())
            return self.step(self.model, cache, read.seq_len)

        return prepare

    def weights_read(self) -> Step:
        """Sums what a step reads of the model: all but the table of embeddings, unless the head is tied to it."""
        tied = self.plain.get_output_embeddings().weight
        skipped = self.plain.get_input_embeddings().weight
        read = [p for p in self.plain.parameters() if p is tied or p is not skipped]
        return lambda: [_plain_sum(part) for part in read]

    def bytes_read(self, size: int) -> Step:
        buffer = torch.ones(max(size // 4, 1), dtype=torch.float32, device=self.plain.device)
        return lambda: buffer.sum()


def _plain_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Of its memory as float32: in one pass, whatever its dtype."""
    return tensor.reshape(-1).view(torch.float32).sum() if tensor.numel() % 2 == 0 else tensor.sum()


def _even(read: Prefill, kv_budget: int) -> Selection:
    places = torch.linspace(0, read.seq_len - 1, min(kv_budget, read.seq_len)).long()
    shape = (read.shape.num_layers, read.shape.num_kv_heads)
    counts = torch.full(shape, len(places)).numpy()
    return Selection(places.repeat(shape[0] * shape[1]), counts, read.seq_len)


def _made(prepare: Callable[[], Step]) -> Callable[[], Step]:
    """Prepared now and kept."""
    step = prepare()
    return lambda: step


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the main thread."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@torch.no_grad()
def measure(decoding: Decoding, kv_budget: int, methods: Sequence[str], args: Any, record: Record) -> dict[str, Any]:
    device, read, batch = args.device, decoding.read, decoding.batch
    whole = sum(name == "full" or (name not in MADE_UP and not get_method(name).takes_budget) for name in methods)
    kept = read.full_bytes * batch * (whole + 2) <= args.keep_gib * GIB
    # A cache that has just been made pays for its first step alone.
    untimed, where = (0 if kept else 2), f"{read.seq_len} tokens, batch {batch}, {kv_budget} slots"
    steps = (args.rounds + 1) * (args.block + untimed) + 4
    arms: dict[str, Callable[[], Step]] = {WEIGHTS: decoding.weights, DYNAMIC: decoding.dynamic}
    if args.static:
        try:
            with time_limit(args.compile_seconds):
                mode = "reduce-overhead" if device.startswith("cuda") else None
                go = decoding.static(steps, torch.compile(decoding.plain.forward, mode=mode))
                go(), go()
            arms[STATIC] = lambda: go
        except Exception as error:  # a compiler that is missing, a model it cannot follow, too long
            record.leave_out(f"{STATIC} ({where})", " ".join(f"{type(error).__name__}: {error}".split())[:200])
    for name in methods:
        try:
            arms[name] = decoding.ragged(name, kv_budget)
        except CokvError as error:
            record.leave_out(f"{name} ({where})", str(error))
    if kept:
        arms = {name: _made(prepare) for name, prepare in arms.items()}
    else:
        for name in arms:
            arms[name]()  # to know its bytes
    bounds = {f"read {size}": size for size in sorted(set(decoding.bytes.values()))}
    work = {**arms, "read the weights": decoding.weights_read}
    for name, size in bounds.items():
        work[name] = lambda size=size: decoding.bytes_read(size)  # type: ignore[misc]
    if kept:
        work = {name: _made(prepare) for name, prepare in work.items()}
    times = in_turns(work, args.rounds, args.block, untimed, device, args.clock)
    return {
        "prompt": read.seq_len,
        "kv_budget": kv_budget,
        "batch": batch,
        "rounds": args.rounds,
        "block": args.block,
        "clock": args.clock,
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
    net = {arm: [a - w for a, w in zip(times[arm], times[WEIGHTS], strict=True)] for arm in (name, DYNAMIC)}
    row["net_step_ms"] = summary([1000 * t for t in net[name]])
    if min(net[DYNAMIC]) > 0:
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
            figures = [
                spread(row.get(key)) for key in ("to_DynamicCache", "net_to_DynamicCache", "to_full", "to_snapkv")
            ]
            rows.append([name, spread(row["step_ms"]), *figures, spread(row.get("to_bound")), mib(row["cache_bytes"])])
        title = f"{result['prompt']} tokens, batch {result['batch']}, mean budget {result['kv_budget']}"
        note = f"{result['rounds']} rounds in turns of {result['block']} steps, {result['clock']} time; caches {result['caches']}."
        columns = (
            "",
            "ms per step",
            "/ DynamicCache",
            "net / DynamicCache",
            "/ ours full",
            "/ SnapKV",
            "/ bound",
            "MiB",
        )
        made.append(Table(title, columns, rows, note))
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(SHAPES), default="100m")
    options.add_argument("--prompt", type=int, nargs="+", default=[8192], help="tokens")
    options.add_argument("--budget", type=int, nargs="+", default=[128], help="mean slots per KV head")
    options.add_argument("--batch", type=int, nargs="+", default=[1])
    options.add_argument("--methods", nargs="+", default=list(METHODS), help="methods without a profile; even, uneven")
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
    methods = tuple(dict.fromkeys(("full", "snapkv", *args.methods)))
    model = random_model(args.shape, args.device, getattr(torch, args.dtype))
    plain = twin(model)
    attach(model)
    record = Record("decode", arguments, args.out, shape=args.shape, dtype=args.dtype, drawn=args.drawn)
    window, observers = prefill_requirements([get_method(name) for name in methods if name not in MADE_UP])
    for prompt in args.prompt:
        if args.drawn:
            read = drawn_prefill(model, prompt, window)
        else:
            read = prefill(model, random_ids(model, prompt), window, observers, PlainTokenizer())
        for batch in args.batch:
            for budget in args.budget:
                record.add(measure(Decoding(model, plain, read, batch), budget, methods, args, record))
    return record.content


if __name__ == "__main__":
    main()
