"""What compressing costs while the prompt is read: each method's prefill against the plain model's, turn by turn.

    python benchmarks/prefill.py --quick
    python benchmarks/prefill.py --prompt 2048 8192 32768 --rounds 3
    python benchmarks/prefill.py --shape llama-3-8b --layers 32 --device cuda --dtype bfloat16 --prompt 8192

The user's way: `cokv.compress`, then the model reads the prompt (methods that read it twice: `cache.prefill`). The
plain model reads it into a DynamicCache. Random weights, few layers: the overhead is per layer, so that its share of
the time is that of a deeper model with layers of this size. Methods that need a profile of the heads get a drawn one,
where it is head scores; others are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from measuring import Record, Step, Table, in_turns, mib, parser, spread, summary
from random_models import SHAPES, PlainTokenizer, head_profile, random_ids, random_model, twin
from transformers import DynamicCache, PreTrainedModel

import cokv
from cokv import probes
from cokv.cache.compat import cache_argument
from cokv.methods.registry import get_method
from cokv.types import CokvError

PLAIN = "plain model"
QUICK = ("full", "snapkv", "adakv", "cokv", "h2o", "kivi4")


def plain(model: PreTrainedModel, ids: torch.Tensor) -> Step:
    def go() -> None:
        cache = DynamicCache(config=model.config)
        model(input_ids=ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)

    return go


def compressing(model: PreTrainedModel, name: str, kv_budget: int, ids: torch.Tensor) -> Step:
    """Raises CokvError where the method refuses, on its first call."""
    method = get_method(name)
    profile = head_profile(model) if method.profile else None
    budget = kv_budget if method.takes_budget else None

    def go() -> None:
        cache = cokv.compress(model, method, budget, profile, tokenizer=PlainTokenizer())
        if method.reads_prompt_again:
            cache.prefill(ids)
        else:
            model(input_ids=ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)

    return go


def needs(name: str) -> str:
    """What a method looks at while the prompt is read, beside keys and values."""
    method = get_method(name)
    seen = [type(observer).__name__ for observer in dict.fromkeys(method.observers)]
    if method.reads_prompt_again:
        return "the prompt again"
    if seen:
        return ", ".join(dict.fromkeys(seen))
    return f"{method.window_size} queries" if method.window_size else "nothing"


@torch.no_grad()
def measure(model: PreTrainedModel, tokens: int, args: Any, record: Record) -> dict[str, Any]:
    ids = random_ids(model, tokens)[None].to(model.device)
    steps = {PLAIN: plain(twin(model), ids)}
    for name in args.methods:
        try:
            step = compressing(model, name, args.budget, ids)
            step()
            steps[name] = step
        except CokvError as error:
            record.leave_out(f"{name} ({tokens} tokens)", str(error))
    turns: dict[str, Callable[[], Step]] = {name: (lambda step=step: step) for name, step in steps.items()}  # type: ignore[misc]
    times = in_turns(turns, args.rounds, device=args.device, clock=args.clock)
    rows = {}
    for name in steps:
        row: dict[str, Any] = {
            "prefill_ms": summary([1000 * t for t in times[name]]),
            "to_plain": probes.ratio_summary(times, name, PLAIN),
        }
        if name != PLAIN:
            row["needs"] = needs(name)
        if args.device.startswith("cuda"):
            with probes.measure(args.device) as probe:
                steps[name]()
            row["cuda_peak_bytes"] = probe.result.get("cuda_peak_bytes")
        rows[name] = row
    return {
        "prompt": tokens,
        "kv_budget": args.budget,
        "rounds": args.rounds,
        "clock": args.clock,
        "arms": rows,
    }


def tables(record: Mapping[str, Any]) -> list[Table]:
    all_tables = []
    for result in record["results"]:
        peaks = any("cuda_peak_bytes" in row for row in result["arms"].values())
        rows = [
            [
                name,
                row.get("needs", "-"),
                spread(row["prefill_ms"], 1),
                spread(row["to_plain"], 3),
                *([mib(row.get("cuda_peak_bytes"), 0)] if peaks else []),
            ]
            for name, row in result["arms"].items()
        ]
        columns = ("", "looks at", "ms", "/ plain model", *(["CUDA peak MiB"] if peaks else []))
        note = f"{result['rounds']} rounds, {result['clock']} time."
        title = f"{result['prompt']} tokens, mean budget {result['kv_budget']}"
        all_tables.append(Table(title, columns, rows, note))
    return all_tables


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(SHAPES), default="100m")
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--prompt", type=int, nargs="+", default=[2048, 8192], help="tokens")
    options.add_argument("--budget", type=int, default=128, help="mean slots per KV head")
    options.add_argument("--methods", nargs="+", help="all, when left out")
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args(arguments)
    if args.quick:
        args.prompt, args.rounds, args.methods = [2048], 3, args.methods or list(QUICK)
    args.methods = args.methods or list(cokv.METHODS)
    model = random_model(args.shape, args.device, getattr(torch, args.dtype), num_hidden_layers=args.layers)
    record = Record("prefill", arguments, args.out, shape=args.shape, layers=args.layers, dtype=args.dtype)
    for tokens in args.prompt:
        record.add(measure(model, tokens, args, record))
    return record.content


if __name__ == "__main__":
    main()
