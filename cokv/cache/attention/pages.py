"""A decode step over pages in C: stores the new token, ranks pages, brings those that are missing, and attends.

`pages.c` is compiled once by the system's compiler (see build.py). It reads the pages in CPU memory where they lie, so
it serves a model that runs there too. Elsewhere, in float64 and without a compiler `why_not` says why not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

from cokv.cache.attention.build import Unavailable, library
from cokv.cache.attention.packed import DTYPES

SOURCE = Path(__file__).with_name("pages.c")
_function: Callable[..., int] | None = None


def function() -> Callable[..., int]:
    """The C function. Raises Unavailable."""
    global _function
    if _function is None:
        call = library(SOURCE).step_over_pages
        call.argtypes = [*[ctypes.c_void_p] * 15, *[ctypes.c_int64] * 9, *[ctypes.c_float] * 2, ctypes.c_int]
        call.restype = ctypes.c_int
        _function = call
    return _function


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it cannot serve what is stored so; None where it can."""
    if device.type != "cpu":
        return f"storage on {device}; expected the CPU"
    if dtype not in DTYPES:
        return f"storage in {dtype}; expected float32, bfloat16 or float16"
    try:
        function()
    except Unavailable as error:
        return str(error)
    return None


def step(
    queries: torch.Tensor,
    new: tuple[torch.Tensor, torch.Tensor],
    stretches: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor,
    counts: torch.Tensor,
    filled: torch.Tensor,
    numbers: torch.Tensor,
    digests: tuple[torch.Tensor, torch.Tensor],
    pool: torch.Tensor,
    index: torch.Tensor,
    slots: int,
    scaling: float,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One new token of each segment is stored, and all that is at hand then attended.

    queries float32 [segments, group_size, head_dim]; new: keys and values [segments, head_dim]; stretches: K and V
    [stretches * slots, head_dim], written in place; rows int64 [segments]: which stretch is whose; counts, filled
    int64 [segments]: complete pages, and tokens of the next, which has room and counts up in place; numbers int64
    [segments, places]: which page lies where, written in place; digests: low and high [stretches, pages, head_dim];
    pool [pages, 2, page, head_dim] in CPU memory; index int64 [segments, pages]: where each page lies in it. Output
    as queries, log-sum-exp float32 [segments, group_size].
    """
    segments, group, dim = queries.shape
    queries, keys, values = queries.contiguous(), new[0].contiguous(), new[1].contiguous()
    tensors = [keys, values, *stretches, rows, counts, filled, numbers, *digests, pool, index]
    assert queries.dtype == torch.float32 and keys.shape == values.shape == (segments, dim), (queries.shape, keys.shape)
    assert len({tensor.dtype for tensor in (keys, values, *stretches, *digests, pool)}) == 1, "one dtype for all tokens"
    assert all(tensor.is_contiguous() for tensor in tensors), "the C function follows no strides"
    out, lse = torch.empty_like(queries), queries.new_empty(segments, group)
    failed = function()(
        queries.data_ptr(),
        *(tensor.data_ptr() for tensor in (*tensors, out, lse)),
        segments,
        group,
        dim,
        DTYPES[keys.dtype],
        digests[0].shape[1],
        index.shape[1],
        pool.shape[2],
        slots,
        numbers.shape[1],
        scaling,
        softcap or 0.0,
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError("attention over pages: no memory for the scratch space of a step")
    return out, lse
