"""Real-valued shares to whole KV slots: the only place that rounds.

`integerize` keeps the budget contract: the sum is min(total, heads * cap) exactly, every head has at least floor_each
and at most cap slots. The slots above floor_each are distributed:

1. Each head claims max(raw - floor_each, 0). Claims are scaled to the number of slots above floor_each.
2. A head whose scaled claim exceeds its cap gets cap, and the others share the rest in proportion, until none exceeds
   it. If all heads with a claim are full, the heads without a claim share the rest equally.
3. Floors, then one slot each by largest remainder; ties go to the larger raw share, then to the lower index.

So whole shares that already fit come back unchanged, a larger raw share never gets fewer slots, and the order of the
heads matters only for exact ties (sums use math.fsum).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from cokv.types import Budgets, FloatArray, Infeasible


def integerize(raw: FloatArray, total: int, cap: int, floor_each: int = 0) -> Budgets:
    """raw [num_layers, num_kv_heads], total slots, cap and floor_each in slots per head."""
    flat = _checked(raw)
    floor_each = min(floor_each, cap)
    target = min(total, flat.size * cap)
    if floor_each < 0 or target < flat.size * floor_each:
        raise Infeasible(
            f"total of {total} KV slots for {flat.size} heads is below the {floor_each} each must keep; "
            f"give at least {flat.size * max(floor_each, 0)}"
        )
    room = cap - floor_each
    shares = fill(np.maximum(flat - floor_each, 0.0), target - flat.size * floor_each, room)
    extra = np.floor(shares)
    left = target - flat.size * floor_each - int(extra.sum())
    order = np.lexsort((np.arange(flat.size), -flat, extra - shares))  # largest remainder, then larger raw, then index
    while left > 0:
        takers = order[extra[order] < room][:left]
        extra[takers] += 1
        left -= takers.size
    budgets = Budgets((extra.astype(np.int64) + floor_each).reshape(raw.shape))
    assert budgets.total == target, (budgets.total, target)
    return budgets


def round_as_released(raw: FloatArray, cap: int, how: Literal["floor", "nearest"]) -> Budgets:
    """Round each head alone, as released codes do: no total is kept. "nearest" takes halves to even, as torch.round."""
    flat = _checked(raw)
    whole = np.floor(flat) if how == "floor" else np.rint(flat)
    return Budgets(np.minimum(whole, cap).astype(np.int64).reshape(raw.shape))


def _checked(raw: FloatArray) -> FloatArray:
    flat = np.asarray(raw, dtype=np.float64).reshape(-1)
    assert flat.size and np.isfinite(flat).all(), f"raw shares must be finite: {raw}"
    return flat


def fill(claims: FloatArray, amount: float, room: float) -> FloatArray:
    """Shares of `amount` in proportion to `claims` [heads], none above `room`; needs amount <= claims.size * room.

    What heads with a claim have no room for goes to the others with one, then equally to those without.
    """
    shares = np.zeros_like(claims)
    open_ = claims > 0
    while open_.any():
        left = amount - room * int(np.count_nonzero((claims > 0) & ~open_))
        units = np.ldexp(claims[open_], -int(np.frexp(claims[open_].max())[1]))  # exact, and nothing overflows
        shares[open_] = units * (left / math.fsum(units))
        full = open_ & (shares >= room)
        if not full.any():
            return shares
        shares[full] = room
        open_ &= ~full
    idle = claims <= 0
    if idle.any():
        shares[idle] = (amount - room * int(np.count_nonzero(~idle))) / int(np.count_nonzero(idle))
    return shares
