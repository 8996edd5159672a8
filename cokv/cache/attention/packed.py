"""Attention in C over packed tokens: codes are read as they are, and nothing is unpacked into memory.

`packed.c` is compiled once by the system's compiler (see build.py). Where it cannot serve (another device, float64, no
compiler) `why_not` says why, and whoever stores packed tokens unpacks them for a backend.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cokv.cache.attention.build import Unavailable, library

SOURCE = Path(__file__).with_name("packed.c")
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of tokens of one width, see storage/quantized.py.

    counts int64 [segments]: groups of each; places int64 [sum(counts)]: where they lie. keys' codes uint8 [groups,
    head_dim, 1, bytes], low and step [groups, head_dim, 1]; values' codes uint8 [groups, group, parts, bytes], low and
    step [groups, group, parts].
    """

    bits: int
    counts: torch.Tensor
    places: torch.Tensor
    keys: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    values: tuple[torch.Tensor, torch.Tensor, torch.Tensor]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.counts, self.places, *self.keys, *self.values


_function: Callable[..., int] | None = None


def function() -> Callable[..., int]:
    """The C function. Raises Unavailable."""
    global _function
    if _function is None:
        call = library(SOURCE).step_packed
        address, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        call.argtypes = [
            address,
            *[number] * 4,
            *[address] * 7,
            *[number] * 3,
            real,
            real,
            address,
            address,
            ctypes.c_int,
        ]
        call.restype = ctypes.c_int
        _function = call
    return _function


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why it cannot read what is stored so; None where it can."""
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
    pools: Sequence[Groups],
    group: int,
    channels: int,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    new: tuple[torch.Tensor, torch.Tensor] | None,
    scaling: float,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stores one new token of each segment in its residual, and attends that and its groups, of one pool at most.

    queries float32 [segments, rows, head_dim]; group: tokens of a group; channels: of a value's group; keys, values
    [slots, head_dim] of the dtype that low and step have, starts, lengths int64 [segments]: the residual, which has
    room; new: keys and values [segments, head_dim] that go behind its last tokens, and lengths are counted up in place;
    without them it is only read. Output as
    queries, log-sum-exp float32 [segments, rows]. As if everything were unpacked, up to rounding: products are float32,
    and what comes of a code is not rounded to the stored dtype.
    """
    segments, rows, dim = queries.shape
    queries = queries.contiguous()
    new_keys, new_values = (None, None) if new is None else (part.contiguous() for part in new)
    assert all(
        part is None or (part.shape == (segments, dim) and part.dtype == keys.dtype) for part in (new_keys, new_values)
    )
    tensors = [keys, values, starts, lengths, *(tensor for pool in pools for tensor in pool.tensors())]
    assert queries.dtype == torch.float32 and keys.shape == values.shape and keys.shape[1] == dim, (
        queries.shape,
        keys.shape,
    )
    assert all(tensor.is_contiguous() for tensor in tensors), "the C function follows no strides"
    described = [n for pool in pools for n in (pool.bits, *(tensor.data_ptr() for tensor in pool.tensors()))]
    out, lse = torch.empty_like(queries), queries.new_empty(segments, rows)
    failed = function()(
        queries.data_ptr(),
        segments,
        rows,
        dim,
        DTYPES[keys.dtype],
        keys.data_ptr(),
        values.data_ptr(),
        starts.data_ptr(),
        lengths.data_ptr(),
        None if new_keys is None else new_keys.data_ptr(),
        None if new_values is None else new_values.data_ptr(),
        (ctypes.c_int64 * max(len(described), 1))(*described),
        len(pools),
        group,
        channels,
        scaling,
        softcap or 0.0,
        out.data_ptr(),
        lse.data_ptr(),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError("attention over packed tokens: no memory for the scratch space of a step")
    return out, lse
