"""Whether this processor multiplies in half precision as fast as in float32: measured, once, in a few milliseconds.

What is read and written is half as much, but products may be converted number by number where the processor has no
instructions for them. Those are a model's own linear layers, which no cache can help.
"""

from __future__ import annotations

import time
import warnings
from functools import cache

import torch

# float16 on AVX-512 without its float16 part: quicker than float32 for one row, 2 to 3 times slower for eight.
ROWS, WIDTH, REPEATS = 8, 512, 5
SLOWER = 1.3


@cache
def linear_ratio(dtype: torch.dtype) -> float:
    """Time of a linear layer over ROWS rows in this dtype, in that of float32: the best of a few turns of each."""
    layers = {
        kind: (torch.ones(ROWS, WIDTH, dtype=kind), torch.ones(WIDTH, WIDTH, dtype=kind))
        for kind in (torch.float32, dtype)
    }
    best = dict.fromkeys(layers, float("inf"))
    with torch.inference_mode():
        for _ in range(REPEATS + 1):
            for kind, (rows, weight) in layers.items():
                start = time.perf_counter()
                torch.nn.functional.linear(rows, weight)
                best[kind] = min(best[kind], time.perf_counter() - start)
    return best[dtype] / best[torch.float32]


@cache
def warn_of_slow_products(device: str, dtype: torch.dtype) -> None:
    """Once for each dtype, where a model's linear layers lose by it."""
    if device != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return
    ratio = linear_ratio(dtype)
    if ratio > SLOWER:
        name = str(dtype).removeprefix("torch.")
        warnings.warn(
            f"the model's linear layers take {ratio:.1f} times as long in {name} as in float32 on this processor "
            f"(measured: {ROWS} rows, {WIDTH} x {WIDTH}), whatever the cache does; load the model in another dtype",
            stacklevel=3,
        )
