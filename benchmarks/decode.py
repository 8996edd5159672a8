"""A decode step on compressed caches: against transformers' DynamicCache, our own full cache, and the weights alone.

    python benchmarks/decode.py --quick                       (a small model on this CPU, three minutes)
    python benchmarks/decode.py --shape llama-3-8b --device cuda --dtype bfloat16 --prompt 8192 --batch 1 32

Random weights of a known shape: speed does not depend on the text. Every row of a batch holds its own copy of one
prompt. Arms take turns, round by round; a figure is the median step of all rounds, a ratio that of one round's medians.
"weights" is the model with one token in its cache: what no compression can save.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from game_worlds import SHAPES
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cokv import probes
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import Prefill, prefill
from cokv.methods.method import prefill_requirements
from cokv.methods.registry import get_method

METHODS = ("full", "snapkv", "adakv", "streamingllm", "h2o", "kivi4")
BASELINE = "DynamicCache"
QUICK = {
    **SHAPES["tiny"],
    "vocab_size": 1000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1 << 20,
}


def build(shape: dict[str, Any], device: str, dtype: torch.dtype) -> PreTrainedModel:
    config = LlamaConfig(**{**shape, "max_position_embeddings": 1 << 20})
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def caches(
    model: PreTrainedModel, read: Prefill, kv_budget: int, batch: int, methods: tuple[str, ...]
) -> dict[str, Callable[[], Any]]:
    """What makes each arm's cache anew, holding the prompt in every row."""
    shape = read.shape

    def dynamic() -> DynamicCache:
        cache = DynamicCache(config=model.config)
        for layer in read.layers:
            copies = (x[None].expand(batch, -1, -1, -1).contiguous() for x in (layer.keys, layer.values))
            cache.update(*copies, layer.layer_idx)
        return cache

    def ragged(name: str) -> Callable[[], RaggedCache]:
        method = get_method(name)
        selection = method.select(read, kv_budget)
        policy = method.bound_policy(kv_budget, read.seq_len, shape.num_layers, shape.num_kv_heads)
        return lambda: RaggedCache.of(read, [selection] * batch, [policy] * batch)

    return {BASELINE: dynamic, **{name: ragged(name) for name in methods}}


def step_ms(model: PreTrainedModel, cache: Any, batch: int, position: int, steps: int, device: str) -> float:
    """Median milliseconds of a step that reads one token per row and gives its logits."""
    ids = torch.ones(batch, 1, dtype=torch.long, device=device)
    times = []
    for step in range(steps + 3):
        positions = torch.full((batch, 1), position + step, device=device)
        probes.synchronize(device)
        start = time.perf_counter()
        model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        probes.synchronize(device)
        if step >= 3:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    prompt: int,
    kv_budget: int,
    batch: int,
    methods: tuple[str, ...],
    rounds: int,
    steps: int,
    device: str,
) -> dict[str, Any]:
    window, observers = prefill_requirements([get_method(name) for name in methods])
    ids = torch.randint(3, model.config.vocab_size, (prompt,), generator=torch.Generator().manual_seed(0))
    read = prefill(model, ids, window, observers)
    builders = caches(model, read, kv_budget, batch, methods)
    builders["weights"] = lambda: DynamicCache(config=model.config)
    times: dict[str, list[float]] = {name: [] for name in builders}
    bytes_held: dict[str, int] = {}
    with ragged_attention(model):
        for _ in range(rounds):
            for name, make in builders.items():
                cache = make()
                if isinstance(cache, RaggedCache):
                    bytes_held[name] = sum(row.bytes + row.host_bytes for row in cache.held())
                elif name == BASELINE:
                    bytes_held[name] = probes.storage_bytes(t for x in cache.layers for t in (x.keys, x.values))
                start = 1 if name == "weights" else prompt
                times[name].append(step_ms(model, cache, batch, start, steps, device))
                del cache
    rows = {}
    for name, each in times.items():
        ratios = {
            f"to_{base}": statistics.median(a / b for a, b in zip(each, times[base], strict=True))
            for base in (BASELINE, "full")
        }
        net = [a - b for a, b in zip(each, times["weights"], strict=True)]
        base = [a - b for a, b in zip(times[BASELINE], times["weights"], strict=True)]
        rows[name] = {
            "step_ms": statistics.median(each),
            **ratios,
            "net_of_weights_to_DynamicCache": statistics.median(a / b for a, b in zip(net, base, strict=True)),
            "cache_bytes": bytes_held.get(name),
        }
    return {"prompt": prompt, "kv_budget": kv_budget, "batch": batch, "rounds": rounds, "steps": steps, "arms": rows}


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['prompt']} tokens, {result['kv_budget']} slots per head, batch {result['batch']}")
    print(f"{'':14}{'ms/step':>10}{'/Dynamic':>10}{'/full':>8}{'net':>8}{'MiB':>10}")
    for name, row in result["arms"].items():
        size = "" if row["cache_bytes"] is None else f"{row['cache_bytes'] / (1 << 20):.1f}"
        print(
            f"{name:14}{row['step_ms']:10.2f}{row['to_DynamicCache']:10.2f}{row['to_full']:8.2f}"
            f"{row['net_of_weights_to_DynamicCache']:8.2f}{size:>10}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="the quick model when left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--prompt", type=int, nargs="+", default=[8192])
    parser.add_argument("--budget", type=int, nargs="+", default=[128])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="2048 tokens, 64 slots, one round")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.prompt, args.budget, args.rounds, args.steps = [2048], [128], 2, 6
    methods = tuple(dict.fromkeys(("full", *args.methods)))
    model = build(SHAPES[args.shape] if args.shape else QUICK, args.device, getattr(torch, args.dtype))
    results = []
    record = {"machine": probes.machine(), "versions": probes.versions(), "arguments": vars(args), "results": results}
    for prompt in args.prompt:
        for budget in args.budget:
            for batch in args.batch:
                results.append(measure(model, prompt, budget, batch, methods, args.rounds, args.steps, args.device))
                show(results[-1])
                if args.out:
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    args.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
