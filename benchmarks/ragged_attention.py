"""One decode step's attention over uneven budgets: our backends, padding, the full cache, and reading K and V once.

    python benchmarks/ragged_attention.py --device cpu --out benchmarks/results/ragged_attention.json

8 KV heads, 4 query heads each, head_dim 128; budgets uneven as head scores make them (largest / mean about 3.6). Arms
are interleaved and every figure is a ratio to the bound of the same round: the time a plain sum over the kept K and V
takes on this device. Attention alone, without the model around it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from random_models import uneven_budgets

from cokv import probes
from cokv.cache.attention import buckets, reference

COMMAND = "benchmarks/ragged_attention.py"
HEADS, GROUP, DIM = 8, 4, 128


def arms(seq_len: int, kept: int, rows: int, device: str, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device=device, dtype=dtype)

    counts = torch.tensor(uneven_budgets(kept, HEADS, seed=1) * rows, device=device)
    starts = counts.cumsum(0) - counts
    total, longest, segments = int(counts.sum()), int(counts.max()), rows * HEADS
    q, k, v = normal(segments, GROUP, DIM), normal(total, DIM), normal(total, DIM)
    scaling = DIM**-0.5
    full_k, full_v = normal(rows, HEADS, seq_len, DIM), normal(rows, HEADS, seq_len, DIM)
    full_q = q.view(rows, HEADS, GROUP, DIM)
    padded_k, padded_v = normal(segments, longest, DIM), normal(segments, longest, DIM)
    mask = (torch.arange(longest, device=device) < counts[:, None])[:, None].expand(-1, GROUP, -1)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return {
        "bound": lambda: (k.sum(), v.sum()),
        "reference": lambda: reference.attend(q, k, v, starts, counts, scaling),
        "buckets": lambda: buckets.attend(q, k, v, starts, counts, scaling),
        "padded to the longest": lambda: sdpa(q, padded_k, padded_v, attn_mask=mask, scale=scaling),
        "full cache": lambda: sdpa(full_q, full_k, full_v, scale=scaling),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    for seq_len, kept, rows in ((8192, 512, 1), (8192, 2048, 1), (32768, 2048, 1), (8192, 512, 8), (8192, 2048, 8)):
        work = arms(seq_len, kept, rows, args.device, getattr(torch, args.dtype))
        seconds = probes.interleaved(work, args.repeats, warmup=3, device=args.device)
        row: dict[str, object] = {"seq_len": seq_len, "kv_budget": kept, "rows": rows}
        row["bound_ms"] = 1000 * sorted(seconds["bound"])[args.repeats // 2]
        row["ratio_to_bound"] = {name: probes.ratio_summary(seconds, name, "bound") for name in work if name != "bound"}
        row["buckets_to_full_cache"] = probes.ratio_summary(seconds, "buckets", "full cache")
        results.append(row)
        ratios = ", ".join(
            f"{n} {probes.ratio_summary(seconds, n, 'bound')['median']:.2f}" for n in work if n != "bound"
        )
        print(f"N={seq_len} budget={kept} rows={rows}: bound {row['bound_ms']:.3f} ms; times the bound: {ratios}")
    if args.out:
        report = {
            "command": f"python {COMMAND} --device {args.device} --dtype {args.dtype} --repeats {args.repeats}",
            "shape": {"num_kv_heads": HEADS, "group_size": GROUP, "head_dim": DIM, "dtype": args.dtype},
            "machine": probes.machine(),
            "versions": probes.versions(),
            "results": results,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
