"""kvpress's SnapKV and AdaKV beside ours: one process, one model, one prompt, turn by turn.

    tox -e peers -- --quick                        (makes an environment with both, then three minutes on two cores)
    tox -e peers -- --prompt 8192 --batch 1 8 32
    tox -e peers -- --model smollm2-135m --prompt 3072

Everyone goes its users' way: kvpress's press around the model that reads the prompt into a DynamicCache, ours
`cokv.compress`; then the same steps of one token on what came of it. Larger batches are the prompt's row repeated, as
beam search does. Budget, window, kernel and pooling are the same on both sides, so that both SnapKVs keep the same
tokens: the record says how far apart their logits are. CoKV's budgets, by drawn head scores, are as uneven as real
ones, which AdaKV's on random weights need not be. Every kvpress arm has a model of its own, with the same weights in
the same memory, since AdaKV leaves its mask on the model's modules. Bytes are counted from the storages of K and V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from measuring import Record, Table, in_turns, mib, parser, spread, summary
from random_models import SHAPES, head_profile, random_ids, random_model, twin
from transformers import DynamicCache, PreTrainedModel

import cokv
from cokv import probes
from cokv.cache.compat import cache_argument
from cokv.methods.method import Method
from cokv.methods.registry import get_method

WINDOW, KERNEL = 32, 5
DYNAMIC, THEIR_SNAPKV, THEIR_ADAKV = "DynamicCache", "kvpress SnapKV", "kvpress AdaKV"
OUR_SNAPKV, OUR_ADAKV, OUR_COKV = "cokv SnapKV", "cokv AdaKV", "cokv CoKV"
WEIGHTS = "weights"  # the model with hardly a token in its cache, which "net" is without
BASES = {DYNAMIC: "/ DynamicCache", THEIR_SNAPKV: "/ kvpress SnapKV", THEIR_ADAKV: "/ kvpress AdaKV"}


@dataclass(eq=False)
class Arm:
    """A model, how it reads the prompt, and the cache that this leaves."""

    model: PreTrainedModel
    read: Callable[[PreTrainedModel, torch.Tensor], Any]
    cache: Any = None
    rows: int = 1

    def prefill(self, ids: torch.Tensor) -> None:
        self.cache = self.read(self.model, ids[None])

    def repeat(self, rows: int) -> None:
        """The one row becomes so many, a multiple of those that are there."""
        times = rows // self.rows
        self.cache.batch_repeat_interleave(times)
        for layer in self.model.model.layers:  # kvpress AdaKV's mask: rows, heads, positions
            masked = getattr(layer.self_attn, "masked_key_indices", None)
            if masked is not None and times > 1:
                row, head, place = masked
                copies = torch.cat([row * times + copy for copy in range(times)])
                layer.self_attn.masked_key_indices = (copies, head.repeat(times), place.repeat(times))
        self.rows = rows

    def step(self, position: int) -> Callable[[], torch.Tensor]:
        ids = torch.ones(self.rows, 1, dtype=torch.long, device=self.model.device)
        positions = torch.full_like(ids, position)

        def go() -> torch.Tensor:
            cache = cache_argument(self.cache)
            answer = self.model(input_ids=ids, position_ids=positions, **cache, use_cache=True, logits_to_keep=1)
            positions.add_(1)
            return answer.logits

        return go

    def bytes(self) -> dict[str, int]:
        """`held`: of the tokens in it; `allocated`: with slack."""
        if isinstance(self.cache, cokv.CompressedCache):
            return {"held": self.cache.memory().held_bytes, "allocated": self.cache.storage_bytes}
        size = probes.storage_bytes(t for layer in self.cache.layers for t in (layer.keys, layer.values))
        return {"held": size, "allocated": size}


def plain(model: PreTrainedModel, ids: torch.Tensor) -> DynamicCache:
    cache = DynamicCache()
    model(input_ids=ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)
    return cache


def pressed(press: Any) -> Callable[[PreTrainedModel, torch.Tensor], DynamicCache]:
    def read(model: PreTrainedModel, ids: torch.Tensor) -> DynamicCache:
        with press(model):
            return plain(model, ids)

    return read


def compressed(method: Method, kv_budget: int, profile: Any = None) -> Callable[[PreTrainedModel, torch.Tensor], Any]:
    def read(model: PreTrainedModel, ids: torch.Tensor) -> Any:
        cache = cokv.compress(model, method, kv_budget, profile)
        model(input_ids=ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        return cache

    return read


def arms(model: PreTrainedModel, tokens: int, kv_budget: int) -> dict[str, Arm]:
    """Raises ModuleNotFoundError without kvpress."""
    from kvpress import AdaKVPress, SnapKVPress

    ratio = 1 - (kv_budget + 0.5) / tokens  # kvpress keeps int(tokens * (1 - ratio))
    snapkv, adakv = (SnapKVPress(ratio, WINDOW, KERNEL) for _ in range(2))
    settings = {"window_size": WINDOW, "kernel_size": KERNEL, "pooling": "avg"}
    ours = {OUR_SNAPKV: "snapkv", OUR_ADAKV: "adakv"}
    return {
        DYNAMIC: Arm(twin(model), plain),
        THEIR_SNAPKV: Arm(twin(model), pressed(snapkv)),
        **{name: Arm(model, compressed(get_method(method, **settings), kv_budget)) for name, method in ours.items()},
        OUR_COKV: Arm(model, compressed(get_method("cokv"), kv_budget, head_profile(model))),
        THEIR_ADAKV: Arm(twin(model), pressed(AdaKVPress(adakv))),
    }


@torch.no_grad()
def measure(model: PreTrainedModel, tokens: int, kv_budget: int, args: Any, record: Record) -> None:
    ids, competing = random_ids(model, tokens).to(model.device), arms(model, tokens, kv_budget)
    work = {name: (lambda arm=arm: lambda: arm.prefill(ids)) for name, arm in competing.items()}
    prefills = in_turns(work, args.prefill_rounds, device=args.device, clock=args.clock)
    logits = {name: arm.step(tokens)() for name, arm in competing.items()}
    apart = float((logits[OUR_SNAPKV] - logits[THEIR_SNAPKV]).abs().max() / logits[DYNAMIC].abs().max())
    weights = Arm(twin(model), plain)
    weights.prefill(ids[:1])
    for batch in args.batch:
        for arm in (weights, *competing.values()):
            arm.repeat(batch)
        sizes = {name: arm.bytes() for name, arm in competing.items()}
        steps = {name: arm.step(tokens + 1) for name, arm in competing.items()}
        steps[WEIGHTS] = weights.step(1)
        turns = {name: (lambda step=step: step) for name, step in steps.items()}
        times = in_turns(turns, args.rounds, args.block, device=args.device, clock=args.clock)
        net = {name: [a - w for a, w in zip(times[name], times[WEIGHTS], strict=True)] for name in competing}
        rows: dict[str, dict[str, Any]] = {}
        for name in competing:
            rows[name] = {
                "net_step_ms": summary([1000 * t for t in net[name]]),
                "step_ms": summary([1000 * t for t in times[name]]),
                **{f"to_{base}": probes.ratio_summary(times, name, base) for base in BASES},
                "bytes": sizes[name],
                "prefill_ms": summary([1000 * t for t in prefills[name]]),
                "prefill_to_DynamicCache": probes.ratio_summary(prefills, name, DYNAMIC),
            }
            if min(net[THEIR_ADAKV]) > 0:
                rows[name]["net_to_kvpress_AdaKV"] = probes.ratio_summary(net, name, THEIR_ADAKV)
        facts: dict[str, Any] = {"prompt": tokens, "kv_budget": kv_budget, "batch": batch}
        facts |= {"rounds": args.rounds, "block": args.block, "prefill_rounds": args.prefill_rounds}
        facts |= {"clock": args.clock, "snapkv_logits_apart": apart}
        record.add({**facts, "arms": rows})


def tables(record: Mapping[str, Any]) -> list[Table]:
    all_tables = []
    for result in record["results"]:
        rows = []
        full = result["arms"][DYNAMIC]["bytes"]["held"]
        for name, row in result["arms"].items():
            ratios = [spread(row[f"to_{base}"]) for base in BASES] + [spread(row.get("net_to_kvpress_AdaKV"))]
            sizes = [mib(row["bytes"]["held"]), mib(row["bytes"]["allocated"]), f"{row['bytes']['held'] / full:.3f}"]
            rows.append([name, spread(row["step_ms"]), *ratios, *sizes, spread(row["prefill_to_DynamicCache"])])
        columns = (
            "",
            "ms per step",
            *BASES.values(),
            "net / kvpress AdaKV",
            "MiB held",
            "allocated",
            "/ full",
            "prefill / DynamicCache",
        )
        title = f"{record['model']}: {result['prompt']} tokens, {result['kv_budget']} slots, batch {result['batch']}"
        note = (
            f"{result['rounds']} rounds in turns of {result['block']} steps, {result['clock']} time; one row's prompt "
            f"read in {result['prefill_rounds']} rounds. Logits of the two SnapKVs differ by at most "
            f"{result['snapkv_logits_apart']:.0e} of the largest in their first step."
        )
        all_tables.append(Table(title, columns, rows, note))
    return all_tables


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--shape", choices=sorted(SHAPES), default="100m", help="random weights")
    options.add_argument("--model", help="a known model, a folder or a .gguf file instead")
    options.add_argument("--prompt", type=int, nargs="+", default=[3072], help="tokens")
    options.add_argument("--budget", type=int, default=128, help="slots per KV head")
    options.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="each a multiple of the one before")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--block", type=int, default=3, help="steps of a turn")
    options.add_argument("--prefill-rounds", type=int, default=2)
    args = options.parse_args(arguments)
    if args.quick:
        args.prompt, args.rounds, args.prefill_rounds = [1024], 5, 2
    if any(b % a for a, b in zip([1, *args.batch], args.batch, strict=False)):
        options.error(f"--batch {args.batch}: expected each a multiple of the one before")
    try:
        import kvpress  # noqa: F401
    except ImportError:
        options.error("kvpress is not installed here; `tox -e peers -- --quick` makes an environment that has it")
    if args.model:
        model: Any = cokv.load_model(args.model, device=args.device, dtype=args.dtype).model
    else:
        model = random_model(args.shape, args.device, getattr(torch, args.dtype))
    record = Record("peers", arguments, args.out, model=args.model or f"{args.shape}, random weights", dtype=args.dtype)
    for tokens in args.prompt:
        measure(model, tokens, args.budget, args, record)
    return record.content


if __name__ == "__main__":
    main()
