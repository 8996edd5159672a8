"""A step of a rule over full heads, in one call of compiled code on the CPU (drops.c), as the rule does in torch.

A step's dozen operations on tensors of a few hundred numbers cost more than what they do. Where there is no compiler,
or the notes lie on another device, `drop` says so and the rule goes on in torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from cokv.cache.attention.build import Unavailable, library
from cokv.cache.policies.protocol import FullHeads
from cokv.types import CokvError

SOURCE = Path(__file__).with_name("drops.c")
H2O, TOVA, SCISSORHANDS, CAKE, FASTGEN = range(5)


@cache
def function() -> Callable[..., int] | None:
    """Of drops.c; None where it cannot be had."""
    try:
        drop = library(SOURCE).cokv_drop
    except Unavailable:
        return None
    drop.argtypes = [
        ctypes.c_int64,
        *[ctypes.c_void_p] * 8,
        *[ctypes.c_int64] * 12,
        *[ctypes.c_double] * 2,
        ctypes.c_int64,
    ]
    drop.restype = ctypes.c_int64
    return drop  # type: ignore[no-any-return]


def available() -> bool:
    return function() is not None


def drop(
    rule: int,
    heads: FullHeads,
    whole: tuple[int, ...] = (),
    shares: tuple[float, ...] = (),
) -> bool:
    """See `EvictsByAttention.drop`. whole, shares: the rule's parameters, in drops.c a, b, c, d, and x, y."""
    call = function() if heads.positions.device.type == "cpu" else None
    if call is None:
        return False
    together = heads.together if rule == TOVA else 1  # the others know no row
    watched, columns, numbers = heads.memory.shape
    of_store, group, width = heads.weights.shape
    kind = torch.uint8 if rule == SCISSORHANDS else torch.float32
    assert heads.memory.dtype == kind and heads.weights.dtype == torch.float32 and width >= columns
    assert numbers == {H2O: 1, TOVA: 1, CAKE: 2, FASTGEN: 2}.get(rule, numbers)
    assert heads.positions.shape == (watched, columns) and heads.positions.dtype == heads.next.dtype == torch.int32
    assert watched % together == 0 and len(heads.segments) == len(heads.next) == len(heads.hole) == watched
    assert heads.lengths.shape == (of_store,) and (heads.kinds is None or heads.kinds.shape == (of_store,))
    assert all(
        t.dtype == torch.int64 for t in (heads.segments, heads.hole, heads.lengths, heads.kinds) if t is not None
    )
    tensors = (heads.weights, heads.segments, heads.memory, heads.positions, heads.next, heads.hole, heads.lengths)
    assert all(t.is_contiguous() for t in tensors) and (heads.kinds is None or heads.kinds.is_contiguous())
    wrong = call(
        rule,
        *[t.data_ptr() for t in tensors],
        None if heads.kinds is None else heads.kinds.data_ptr(),
        watched,
        of_store,
        together,
        width,
        group,
        numbers,
        columns,
        heads.step,
        *whole,
        *[0] * (4 - len(whole)),
        *shares,
        *[0.0] * (2 - len(shares)),
        torch.get_num_threads(),
    )
    if wrong < 0:
        raise MemoryError("eviction: no memory for the scratch space of a step")
    if wrong:
        raise CokvError(f"eviction: the notes of watched head {wrong - 1} are not those of a full head")
    return True
