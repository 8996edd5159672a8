"""What scorers check alike: their fields, and the budget against what they always keep; how a share is rounded."""

from __future__ import annotations

import math

from cokv.types import CokvError, Infeasible


def require_whole(fields: object, **least: int) -> None:
    """Each named field is a whole number, and not below its least one."""
    for name, low in least.items():
        value = getattr(fields, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise CokvError(f"{name} is {value!r}, expected a whole number, {low} or more")


def require_odd_kernel(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise CokvError(f"kernel_size is {kernel_size}, expected an odd number (same padding has a centre)")


def require_share(fields: object, of: str, *names: str) -> None:
    """Each named field is a share, of something in words."""
    for name in names:
        value = getattr(fields, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise CokvError(f"{name} is {value!r}, expected a share of {of} between 0 and 1")


def part_of(slots: int, share: float) -> int:
    """The share of the slots, rounded down: 29 of 100 for 0.29, whose product with 100 in binary is below 29."""
    return math.floor(round(slots * share, 9))


def require_slot(kv_budget: int, kept: int, what: str, field: str = "") -> None:
    """There is room beside what is always kept: `kept` tokens, in words, and the field that says how many."""
    if kv_budget <= kept:
        other = f", or {field} to at most {max(kv_budget - 1, 0)}" if field else ""
        raise Infeasible(
            f"kv_budget {kv_budget} leaves no slot beside {what}; set kv_budget to at least {kept + 1}{other}"
        )
