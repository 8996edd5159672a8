"""Memory: what each method's cache holds after the prompt, and the peak of the prefill that compresses it.

    python benchmarks/memory.py --quick
    python benchmarks/memory.py --prompt 8192 32768
    python benchmarks/memory.py --shape llama-3-8b --layers 32 --device cuda --dtype bfloat16 --prompt 28672

Bytes are counted from the storages that the code makes (weights and the prompt's ids are not among them), so they are
the same on every machine. "Over no cache" is the peak less that of the same forward pass without any cache; a prefill
that compresses layer by layer needs at most one dense layer and what is kept. The peaks of the process (resident size)
and of CUDA's allocator have the weights in them; each arm has a process of its own (--in-process: this one).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from measuring import Record, Table, mib, parser
from random_models import SHAPES, PlainTokenizer, head_profile, random_ids, random_model
from transformers import DynamicCache, PreTrainedModel

import cokv
from cokv import probes
from cokv.cache.compat import cache_argument
from cokv.cache.live_bytes import live_bytes
from cokv.methods.registry import get_method
from cokv.model.shape import model_shape
from cokv.types import CokvError

NO_CACHE, DYNAMIC = "no cache", "DynamicCache"
METHODS = ("full", "streamingllm", "h2o", "snapkv", "adakv", "cokv", "kivi4", "arkvale")


def read(model: PreTrainedModel, name: str, kv_budget: int, ids: torch.Tensor) -> Any:
    """The cache that an arm leaves; None without one."""
    if name == NO_CACHE:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
        return None
    if name == DYNAMIC:
        cache: Any = DynamicCache(config=model.config)
    else:
        method = get_method(name)
        profile = head_profile(model) if method.profile else None
        budget = kv_budget if method.takes_budget else None
        cache = cokv.compress(model, method, budget, profile, tokenizer=PlainTokenizer())
        if method.reads_prompt_again:
            cache.prefill(ids)
            return cache
    model(input_ids=ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)
    return cache


def sizes(cache: Any) -> dict[str, int]:
    """Bytes: `held` by tokens, `allocated` with slack, `host` in CPU memory."""
    if isinstance(cache, cokv.CompressedCache):
        memory = cache.memory()
        allocated = memory.held_bytes + memory.slack_bytes
        return {"held": memory.held_bytes, "allocated": allocated, "host": memory.host_bytes}
    size = probes.storage_bytes(t for layer in cache.layers for t in (layer.keys, layer.values))
    return {"held": size, "allocated": size, "host": 0}


@torch.no_grad()
def counted(model: PreTrainedModel, name: str, kv_budget: int, ids: torch.Tensor) -> dict[str, Any]:
    read(model, name, kv_budget, ids[:, :64])  # what is made once, whatever the prompt
    with live_bytes() as live:
        cache = read(model, name, kv_budget, ids)
        row: dict[str, Any] = {"peak_bytes": live.peak}
        if cache is not None:
            row |= sizes(cache)
        del cache
    return row


@torch.no_grad()
def alone(args: Any, name: str, tokens: int) -> None:
    """In a process of its own: prints the peaks as JSON."""
    model = random_model(args.shape, args.device, getattr(torch, args.dtype), num_hidden_layers=args.layers)
    ids = random_ids(model, tokens)[None].to(model.device)
    with probes.measure(args.device) as probe:
        read(model, name, args.budget, ids)
    print(json.dumps(probe.result))


@torch.no_grad()
def peaks_here(model: PreTrainedModel, name: str, args: Any, ids: torch.Tensor) -> dict[str, Any]:
    """CUDA's alone: the resident size of a process that has done other work says nothing."""
    with probes.measure(args.device) as probe:
        cache = read(model, name, args.budget, ids)
        del cache
    return {key: value for key, value in probe.result.items() if key == "cuda_peak_bytes"}


def peaks(args: Any, name: str, tokens: int) -> dict[str, Any]:
    settings = [args.shape, args.layers, args.device, args.dtype, args.budget, tokens]
    names = ["--shape", "--layers", "--device", "--dtype", "--budget", "--prompt"]
    options = [str(part) for pair in zip(names, settings, strict=True) for part in pair]
    command = [sys.executable, __file__, *options, "--alone", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} in a process of its own: {done.stderr.strip().splitlines()[-1:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return {key: result[key] for key in ("rss_start_bytes", "rss_peak_bytes", "cuda_peak_bytes") if key in result}


def measure(model: PreTrainedModel, tokens: int, args: Any, record: Record) -> dict[str, Any]:
    ids = random_ids(model, tokens)[None].to(model.device)
    shape = model_shape(model.config)
    dense = 2 * shape.num_kv_heads * shape.head_dim * tokens * model.dtype.itemsize
    rows: dict[str, dict[str, Any]] = {}
    for name in (NO_CACHE, DYNAMIC, *args.methods):
        try:
            row = counted(model, name, args.budget, ids)
        except CokvError as error:
            record.leave_out(f"{name} ({tokens} tokens)", str(error))
            continue
        if "held" in row:
            row["over_no_cache"] = row["peak_bytes"] - rows[NO_CACHE]["peak_bytes"]
            row["dense_layer_and_kept"] = dense + row["held"]
        if args.in_process:
            rows[name] = row | peaks_here(model, name, args, ids)
        else:
            rows[name] = row | (peaks(args, name, tokens) if args.processes else {})
    facts = {"prompt": tokens, "kv_budget": args.budget, "dense_layer_bytes": dense}
    return {**facts, "full_bytes": dense * shape.num_layers, "arms": rows}


def tables(record: Mapping[str, Any]) -> list[Table]:
    made = []
    for result in record["results"]:
        known = [key for key in ("rss", "cuda") if any(f"{key}_peak_bytes" in row for row in result["arms"].values())]
        rows = []
        for name, row in result["arms"].items():
            share = "-" if "held" not in row else f"{row['held'] / result['full_bytes']:.3f}"
            counted_bytes = ("held", "allocated", "host", "peak_bytes", "over_no_cache", "dense_layer_and_kept")
            process = [mib(row.get(f"{key}_peak_bytes"), 0) for key in known]
            rows.append([name, share, *(mib(row.get(key)) for key in counted_bytes), *process])
        columns = (
            "",
            "/ full",
            "held",
            "allocated",
            "on the host",
            "peak",
            "over no cache",
            "one dense layer and kept",
        )
        title = f"MiB: {result['prompt']} tokens, mean budget {result['kv_budget']}"
        note = f"One dense layer: {mib(result['dense_layer_bytes'])} MiB, the full cache {mib(result['full_bytes'])}."
        made.append(Table(title, (*columns, *(f"{key.upper()} peak" for key in known)), rows, note))
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(SHAPES), default="100m")
    options.add_argument("--layers", type=int, default=8)
    options.add_argument("--prompt", type=int, nargs="+", default=[8192], help="tokens")
    options.add_argument("--budget", type=int, default=128, help="mean slots per KV head")
    options.add_argument("--methods", nargs="+", default=list(METHODS))
    options.add_argument("--no-processes", dest="processes", action="store_false", help="counted bytes only")
    options.add_argument("--in-process", action="store_true", help="CUDA's peaks in this process")
    options.add_argument("--alone", metavar="ARM", help="measure one arm in this process and print its peaks")
    args = options.parse_args(arguments)
    if args.alone:
        alone(args, args.alone, args.prompt[0])
        return None
    if args.quick:
        args.prompt, args.layers, args.methods = [2048], 4, ["full", "snapkv", "adakv", "kivi4"]
    model = random_model(args.shape, args.device, getattr(torch, args.dtype), num_hidden_layers=args.layers)
    record = Record("memory", arguments, args.out, shape=args.shape, layers=args.layers, dtype=args.dtype)
    for tokens in args.prompt:
        record.add(measure(model, tokens, args, record))
    return record.content


if __name__ == "__main__":
    main()
