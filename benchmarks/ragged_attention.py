"""One decode step's attention over uneven budgets: every backend, padding, the full cache; reading K and V once.

    python benchmarks/ragged_attention.py --quick
    python benchmarks/ragged_attention.py --device cuda --dtype bfloat16

8 KV heads, 4 query heads each, head_dim 128; budgets uneven as head scores make them (largest / mean about 3.6), or
even. The bound is the time that a plain sum over the kept K and V takes on this device, formed in the same round.
Attention alone, without the model around it and without storing the step's own token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from measuring import Record, Step, Table, in_turns, parser, spread, summary
from random_models import uneven_budgets

from cokv import probes
from cokv.cache.attention import choose

HEADS, GROUP, DIM = 8, 4, 128
CASES = ((8192, 128, 1), (8192, 512, 1), (8192, 2048, 1), (32768, 2048, 1), (8192, 128, 8), (8192, 1024, 8))
QUICK = ((8192, 128, 1), (8192, 512, 1), (8192, 128, 8))
BOUND, PADDED, FULL = "bound", "padded to the longest", "full cache"


def arms(seq_len: int, counts: Sequence[int], rows: int, device: str, dtype: torch.dtype) -> dict[str, Step]:
    """counts: slots of each KV head of a row."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device=device, dtype=dtype)

    at_most = list(counts) * rows
    lengths = torch.tensor(at_most, device=device)
    starts = lengths.cumsum(0) - lengths
    total, longest, segments = sum(at_most), max(at_most), rows * HEADS
    q, k, v = normal(segments, GROUP, DIM), normal(total, DIM), normal(total, DIM)
    scaling = DIM**-0.5
    full_k, full_v = normal(rows, HEADS, seq_len, DIM), normal(rows, HEADS, seq_len, DIM)
    full_q = q.view(rows, HEADS, GROUP, DIM)
    padded_k, padded_v = normal(segments, longest, DIM), normal(segments, longest, DIM)
    mask = (torch.arange(longest, device=device) < lengths[:, None])[:, None].expand(-1, GROUP, -1)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    words = [part.view(-1).view(torch.float32) for part in (k, v)]  # summed in one pass, whatever the dtype
    work: dict[str, Step] = {BOUND: lambda: [part.sum() for part in words]}
    for described in choose.describe_backends():
        if described.available:
            backend = choose.get_backend(described.name)
            if backend.refusal(torch.device(device), dtype, DIM) is None:
                work[described.name] = lambda attend=backend.attend: attend(  # type: ignore[misc]
                    q, k, v, starts, lengths, scaling, at_most
                )
    work[PADDED] = lambda: sdpa(q, padded_k, padded_v, attn_mask=mask, scale=scaling)
    work[FULL] = lambda: sdpa(full_q, full_k, full_v, scale=scaling)
    return work


@torch.no_grad()
def measure(seq_len: int, mean: int, rows: int, even: bool, args: Any) -> dict[str, Any]:
    dtype = getattr(torch, args.dtype)
    counts = [mean] * HEADS if even else uneven_budgets(mean, HEADS, seed=1)
    work = arms(seq_len, counts, rows, args.device, dtype)
    turns: dict[str, Callable[[], Step]] = {name: (lambda step=step: step) for name, step in work.items()}  # type: ignore[misc]
    times = in_turns(turns, args.rounds, args.block, 1, args.device, args.clock)
    return {
        "seq_len": seq_len,
        "kv_budget": mean,
        "rows": rows,
        "budgets": "even" if even else "uneven",
        "rounds": args.rounds,
        "block": args.block,
        "clock": args.clock,
        "chosen": choose.choose(torch.device(args.device), dtype, DIM),
        "arms": {
            name: {
                "ms": summary([1000 * t for t in each]),
                "to_bound": probes.ratio_summary(times, name, BOUND),
                "to_full_cache": probes.ratio_summary(times, name, FULL),
            }
            for name, each in times.items()
        },
    }


def tables(record: Mapping[str, Any]) -> list[Table]:
    all_tables = []
    for result in record["results"]:
        rows = [
            [name, spread(row["ms"], 3), spread(row["to_bound"]), spread(row["to_full_cache"], 3)]
            for name, row in result["arms"].items()
        ]
        budget = f"mean budget {result['kv_budget']}, {result['budgets']}"
        title = f"{result['seq_len']} tokens, {budget}, rows: {result['rows']}"
        note = f"{result['rounds']} rounds in turns of {result['block']}, {result['clock']} time"
        all_tables.append(
            Table(title, ("", "ms", "/ bound", "/ full cache"), rows, f"{note}; chosen: {result['chosen']}.")
        )
    return all_tables


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--block", type=int, default=5, help="calls of a turn")
    options.add_argument("--case", type=int, nargs=3, action="append", metavar=("TOKENS", "BUDGET", "ROWS"))
    args = options.parse_args(arguments)
    cases = args.case or (QUICK if args.quick else CASES)
    facts = {"num_kv_heads": HEADS, "group_size": GROUP, "head_dim": DIM, "dtype": args.dtype}
    record = Record("ragged_attention", arguments, args.out, **facts)
    for case in cases:
        for even in (False, True):
            record.add(measure(*case, even, args))
    return record.content


if __name__ == "__main__":
    main()
