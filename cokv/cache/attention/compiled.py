"""A CPU backend in C: one call stores a step's tokens and attends every segment, reading K and V once.

`compiled.c` is compiled once by the system's compiler (see build.py). Storage float32, bfloat16 or float16, queries of
that dtype or float32; logits, softmax and sums are float32. What is read: segments anywhere in flat storage, in any
order. Knows no rule of eviction, but serves those who evict: tokens may be written to given places, and attention
weights come from the same call.

    attend(queries, keys, values, starts, lengths, scaling, ...) -> (out, lse)            as `reference.attend`
    step(queries, keys, values, starts, lengths, scaling, new_keys, new_values, ...)      stores first, and then attends
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cokv.cache.attention.build import Unavailable, library
from cokv.types import CokvError

SOURCE = Path(__file__).with_name("compiled.c")
DEFINES = {
    torch.float32: ("STORED=FLOAT32",),
    torch.bfloat16: ("STORED=BFLOAT16",),
    torch.float16: ("STORED=FLOAT16", "HALF"),
}
CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_POINTERS, _SIZES = 12, 6
_functions: dict[torch.dtype, Callable[..., int]] = {}


def function(dtype: torch.dtype) -> Callable[..., int]:
    """The C function for storage of this dtype. Raises Unavailable."""
    known = _functions.get(dtype)
    if known is None:
        if dtype not in DEFINES:
            raise Unavailable(f"{dtype}; expected float32, bfloat16 or float16")
        known = library(SOURCE, DEFINES[dtype]).cokv_step
        known.argtypes = [
            *[ctypes.c_void_p] * _POINTERS,
            *[ctypes.c_int64] * _SIZES,
            ctypes.c_int,
            *[ctypes.c_float] * 2,
            ctypes.c_int,
        ]
        known.restype = ctypes.c_int64
        _functions[dtype] = known
    return known


def missing() -> str | None:
    """Why it is not available here, in words; builds it where nobody has yet."""
    try:
        function(torch.float32)
    except Unavailable as error:
        return str(error)
    return None


def refusal(device: torch.device, dtype: torch.dtype, head_dim: int, softcap: float | None = None) -> str | None:
    """Why it cannot serve such keys, in words."""
    if device.type != "cpu":
        return f"runs on the CPU, not on {device.type!r}"
    try:
        function(dtype)
    except Unavailable as error:
        return f"has no code for these keys: {error}"
    return None


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    at_most: Sequence[int] | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference.attend`; `at_most` is not needed. Copies what is not contiguous."""
    keys, values, starts, lengths = (part.contiguous() for part in (keys, values, starts, lengths))
    out, lse = step(queries, keys, values, starts, lengths, scaling, softcap=softcap)
    assert lse is not None
    return out, lse


def step(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    new_keys: torch.Tensor | None = None,
    new_values: torch.Tensor | None = None,
    places: torch.Tensor | None = None,
    grows: torch.Tensor | None = None,
    softcap: float | None = None,
    weights: torch.Tensor | None = None,
    needs_lse: bool = True,
    at_most: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Stores one new token per segment, where there are new ones, and attends all that is then stored.

    queries [segments, rows, channels]; keys [slots, channels] and values [slots, head_dim], written in place; starts,
    lengths int64 [segments], lengths counted up in place; new_keys [segments, channels], new_values [segments,
    head_dim]. A token goes behind its segment's last, or to `places` int64 [segments], counted from the segment's
    start; only segments that `grows` (bool [segments]) get longer by it. weights: float32 [segments, rows, width], is
    filled with the attention weights, zero beyond a segment's length; not for segments of more than `width` tokens.

    Returns the output [segments, rows, head_dim] in the queries' dtype and the log-sum-exp float32 [segments, rows],
    None where it is not needed. at_most: bounds of the lengths before it, for devices that lengths would be waited for.
    Nothing is written where an argument is wrong.
    """
    dtype = keys.dtype
    call = _functions.get(dtype) or function(dtype)
    (segments, rows, channels), (slots, head_dim) = queries.shape, values.shape
    out = torch.empty(segments, rows, head_dim, dtype=queries.dtype)
    lse = torch.empty(segments, rows, dtype=torch.float32) if needs_lse else None
    if not queries.is_contiguous():
        queries = queries.contiguous()
    if new_keys is not None and new_values is not None:
        new_keys, new_values = new_keys.contiguous(), new_values.contiguous()
    code = CODES[dtype] if queries.dtype == dtype else 0
    if not (
        keys.shape == (slots, channels)
        and starts.shape == lengths.shape == (segments,)
        and starts.dtype == lengths.dtype == torch.int64
        and (queries.dtype == dtype or queries.dtype == torch.float32)
        and values.dtype == dtype
        and keys.is_contiguous()
        and values.is_contiguous()
        and starts.is_contiguous()
        and lengths.is_contiguous()
        and not (keys.is_cuda or values.is_cuda or queries.is_cuda or starts.is_cuda or lengths.is_cuda)
    ):
        raise _refusal(queries=queries, keys=keys, values=values, starts=starts, lengths=lengths)
    if new_keys is not None and not (
        new_values is not None
        and new_keys.shape == (segments, channels)
        and new_values.shape == (segments, head_dim)
        and new_keys.dtype == new_values.dtype == dtype
    ):
        raise _refusal(queries=queries, keys=keys, values=values, new_keys=new_keys, new_values=new_values)
    if places is not None or grows is not None or weights is not None:
        _check_extras(segments, rows, places, grows, weights)
    wrong = call(
        queries.data_ptr(),
        None if new_keys is None else new_keys.data_ptr(),
        None if new_values is None else new_values.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        starts.data_ptr(),
        lengths.data_ptr(),
        None if places is None else places.data_ptr(),
        None if grows is None else grows.data_ptr(),
        out.data_ptr(),
        None if lse is None else lse.data_ptr(),
        None if weights is None else weights.data_ptr(),
        segments,
        rows,
        channels,
        head_dim,
        slots,
        0 if weights is None else weights.shape[2],
        code,
        scaling,
        softcap or 0.0,
        torch.get_num_threads(),
    )
    if wrong > 0:
        at = wrong - 1
        raise CokvError(
            f"attention: segment {at} begins at slot {int(starts[at])} and has {int(lengths[at])} tokens, of {slots} "
            f"slots{'' if places is None else f', and its next token goes to place {int(places[at])}'}"
        )
    if wrong:
        raise MemoryError("attention: no memory for the scratch space of a step")
    return out, lse


def _check_extras(
    segments: int,
    rows: int,
    places: torch.Tensor | None,
    grows: torch.Tensor | None,
    weights: torch.Tensor | None,
) -> None:
    for name, tensor, dtype in (("places", places, torch.int64), ("grows", grows, torch.bool)):
        if tensor is not None and (tensor.shape != (segments,) or tensor.dtype != dtype or not tensor.is_contiguous()):
            raise _refusal(**{name: tensor})
    if weights is not None and (
        weights.shape[:2] != (segments, rows) or weights.dtype != torch.float32 or not weights.is_contiguous()
    ):
        raise _refusal(weights=weights)


def _refusal(**tensors: torch.Tensor | None) -> CokvError:
    got = ", ".join(
        f"{name} " + ("none" if t is None else f"{t.dtype} {list(t.shape)} on {t.device}")
        for name, t in tensors.items()
    )
    return CokvError(
        f"attention in C takes contiguous tensors on the CPU, of the shapes that compiled.step says; got {got}"
    )
