"""A long day: 100,000 steps at a fixed budget, and many prompts on one cache. Memory stays flat, answers do not drift.

    python benchmarks/soak.py --quick
    python benchmarks/soak.py --steps 100000 --methods streamingllm h2o tova
    python benchmarks/soak.py --steps 20000 --turns 5000 --shape llama-3-8b --device cuda --dtype bfloat16

Stored bytes, allocated bytes and the process's resident size are sampled a hundred times after the first hundredth of
the steps. All keys and values that the model ever makes are recorded beside the cache (in memory taken before the first
sample). At ten places a cache is made anew from that dense history, holding what the soaked one holds, and both read
the same token: their logits are compared. StreamingLLM's tokens are known in closed form; of the others' each stored
key and value must be the history's at the position that the rule has noted. Turns reset one cache again and again; the
same prompt must have the same logits in every turn, to the bit. Random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from measuring import Record, Table, mib, parser
from random_models import SHAPES, random_ids, random_model
from soak_history import History
from transformers import PreTrainedModel

import cokv
from cokv import probes
from cokv.cache.compat import cache_argument

PROMPT, SINKS = 256, 4
FLAT = 0.01  # (max - min) / max


def forward(model: PreTrainedModel, cache: Any, ids: torch.Tensor, position: int) -> torch.Tensor:
    """Logits [vocab_size] after the last of ids [1, t], whose first has this position."""
    positions = torch.arange(position, position + ids.shape[1], device=ids.device)[None]
    answer = model(
        input_ids=ids, position_ids=positions, **cache_argument(cache), use_cache=True, logits_to_keep=1
    ).logits
    return answer[0, -1]


@torch.no_grad()
def steps(model: PreTrainedModel, name: str, args: Any) -> dict[str, Any]:
    cache = cokv.compress(model, name, kv_budget=args.budget)
    prompt = random_ids(model, PROMPT).to(model.device)
    history = History(model, cache, PROMPT + args.steps)
    token = forward(model, cache, prompt[None], 0).argmax()[None, None]
    samples: dict[str, list[int]] = {"held": [], "allocated": [], "rss": []}
    apart, places = [], []
    for step in range(args.steps):
        position = PROMPT + step
        if (step + 1) % max(args.steps // 10, 1) == 0:
            kept = streaming(position, args.budget) if name == "streamingllm" else history.kept(cache)
            reference = forward(model, history.cache(kept, position), token, position)
            logits = forward(model, cache, token, position)
            apart.append(float((logits - reference).abs().max() / reference.abs().max()))
            places.append(step + 1)
        else:
            logits = forward(model, cache, token, position)
        # Not the argmax: it may run in a circle, which would be an easy day.
        token = (token * 7 + logits.argmax() + step) % model.config.vocab_size
        if step >= args.steps // 100 and (step + 1) % max(args.steps // 100, 1) == 0:
            sample(samples, cache)
    return {
        "part": f"{name}: {args.steps:,} steps at {args.budget} slots",
        "samples": {what: spans(values) for what, values in samples.items() if values},
        "checked_after": places,
        "logits_apart": apart,
    }


def streaming(seen: int, budget: int) -> Callable[[int, int], list[int]]:
    """What StreamingLLM attends beside the token at position `seen`, which takes the last slot."""
    kept = [*range(SINKS), *range(seen - (budget - SINKS - 1), seen)]
    return lambda layer, head: kept


@torch.no_grad()
def turns(model: PreTrainedModel, args: Any) -> dict[str, Any]:
    cache = cokv.compress(model, "snapkv", kv_budget=args.budget)
    prompts = [random_ids(model, PROMPT + 16 * seed, seed).to(model.device) for seed in range(4)]
    first: dict[int, torch.Tensor] = {}
    samples: dict[str, list[int]] = {"held": [], "allocated": [], "rss": []}
    different = 0
    for turn in range(args.turns):
        prompt = prompts[turn % 4]
        cache.reset()
        logits = forward(model, cache, prompt[None], 0)
        for step in range(8):
            logits = forward(model, cache, logits.argmax()[None, None], len(prompt) + step)
        different += not torch.equal(logits, first.setdefault(turn % 4, logits))
        if turn >= args.turns // 10:
            sample(samples, cache)
    return {
        "part": f"{args.turns:,} prompts on one cache, SnapKV at {args.budget} slots, 8 steps each",
        "samples": {what: spans(values) for what, values in samples.items() if values},
        "turns_with_other_logits": different,
    }


def sample(samples: dict[str, list[int]], cache: Any) -> None:
    memory = cache.memory()
    samples["held"].append(memory.held_bytes + memory.host_bytes)
    samples["allocated"].append(memory.held_bytes + memory.slack_bytes + memory.host_bytes)
    if (resident := probes.resident_bytes()) is not None:
        samples["rss"].append(resident)


def spans(values: Sequence[int]) -> dict[str, Any]:
    return {"samples": len(values), "min": min(values), "max": max(values), "span": 1 - min(values) / max(values)}


def tables(record: Mapping[str, Any]) -> list[Table]:
    all_tables = []
    for result in record["results"]:
        rows = [
            [what, str(row["samples"]), mib(row["min"], 4), mib(row["max"], 4), f"{100 * row['span']:.3f} %"]
            for what, row in result["samples"].items()
        ]
        if "logits_apart" in result:
            apart = ", ".join(f"{place:,}: {value:.0e}" for place, value in zip(*checked(result), strict=True))
            note = f"Largest difference to the cache made anew, in shares of the largest logit, after {apart}."
        else:
            note = "Turns whose logits were not those of the same prompt's first turn: "
            note += f"{result['turns_with_other_logits']}."
        all_tables.append(Table(result["part"], ("MiB", "samples", "least", "most", "most - least"), rows, note))
    return all_tables


def checked(result: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    return result["checked_after"], result["logits_apart"]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    options.add_argument("--steps", type=int, default=100_000)
    options.add_argument("--turns", type=int, default=2_000)
    options.add_argument("--budget", type=int, default=64, help="slots per KV head")
    options.add_argument("--methods", nargs="+", default=["streamingllm", "h2o"], help="that keep to a fixed budget")
    args = options.parse_args(arguments)
    if args.quick:
        args.steps, args.turns = 10_000, 400
    model = random_model(args.shape, args.device, getattr(torch, args.dtype))
    record = Record("soak", arguments, args.out, shape=args.shape, dtype=args.dtype)
    record.add(turns(model, args))
    for name in args.methods:
        record.add(steps(model, name, args))
    worst = max(row["span"] for result in record.content["results"] for row in result["samples"].values())
    print(f"largest span: {100 * worst:.3f} % ({'flat' if worst < FLAT else 'NOT flat'}: the bar is {FLAT:.0%})")
    return record.content


if __name__ == "__main__":
    main()
