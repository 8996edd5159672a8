"""Attention over codes through Triton's interpreter, beside the reference: run as a program, prints a line of JSON."""

from __future__ import annotations

import json
import sys

import torch
import triton_interpreted  # before triton is imported: it sets what the interpreter needs

from cokv.cache.attention import reference, triton_decode
from cokv.cache.attention.backend import Backend
from cokv.cache.policies.quantize import Bits, Quantize
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.quantized import QuantizedRows

CASES: list[tuple[int, int, int, Bits, torch.dtype, float | None]] = [  # head_dim, rows, group, bits, dtype, softcap
    (64, 3, 32, 4, torch.float32, None),
    (24, 2, 5, ((2, 8, 16),), torch.float32, 2.0),  # groups that end inside a byte, in one part
    (64, 17, 32, 2, torch.float16, None),  # values in two parts; more rows than a block
    (16, 1, 16, 8, torch.bfloat16, None),
]


def far(dim: int, rows: int, group: int, bits: Bits, dtype: torch.dtype, softcap: float | None) -> float:
    """Two steps of a store that reads codes by Triton, beside one that unpacks them; infinite where it does not."""
    draw = torch.Generator().manual_seed(dim)
    keys, values = (torch.randn(3, 12 * group, dim, generator=draw).to(dtype) for _ in range(2))
    layer = PrefillLayer(0, keys, values, torch.empty(3, 0, dim, dtype=dtype), dim**-0.5)
    kept = [[torch.arange(n) for n in (12 * group, 0, 2 * group + 1)]]
    reads, unpacks = (
        QuantizedRows([layer], kept, [Quantize(bits, group, 3)], 4, Backend(attend, softcap))
        for attend in (triton_decode.attend, reference.attend)
    )
    if reads.unpacks is not None or unpacks.unpacks is None:
        return float("inf")
    worst = 0.0
    for _ in range(2):
        queries = torch.randn(1, 3 * rows, 1, dim, generator=draw)
        new = torch.randn(2, 1, 3, 1, dim, generator=draw).to(dtype)
        got, expected = (store.attend(queries, *new, dim**-0.5) for store in (reads, unpacks))
        worst = max(worst, triton_interpreted.far(got, expected))
    return worst


def main() -> None:
    allowed = {torch.float32: 1e-5, **{dtype: 2e-2 for dtype in (torch.bfloat16, torch.float16)}}
    print(json.dumps([{"case": str(case), "far": far(*case), "allowed": allowed[case[4]]} for case in CASES]))


if __name__ == "__main__":
    main()
    sys.exit(0)
