"""Checks that scorers and allocators share: of their fields, and of the budget against what always stays; rounding."""

from __future__ import annotations

import math
from collections.abc import Callable

from cokv.types import CokvError, Infeasible


def require_whole(fields: object, **least: int) -> None:
    """Raises unless each named field is a whole number of at least its value in `least`."""
    for name, low in least.items():
        value = getattr(fields, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise CokvError(f"{name} is {value!r}, expected a whole number, {low} or more")


def require_odd_kernel(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise CokvError(f"kernel_size is {kernel_size}, expected an odd number (same padding has a centre)")


def require_number(fields: object, name: str, expected: str, valid: Callable[[float], bool]) -> None:
    """Raises unless the named field is a `valid` number; expected: the valid numbers in words, for the error."""
    value = getattr(fields, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not valid(value):
        raise CokvError(f"{name} is {value!r}, expected {expected}")


def require_share(fields: object, of: str, *names: str) -> None:
    """Raises unless each named field is a share, 0..1; of: the whole, in words, for the error."""
    for name in names:
        require_number(fields, name, f"a share of {of} between 0 and 1", lambda share: 0 <= share <= 1)


def part_of(slots: int, share: float) -> int:
    """floor(slots * share) in decimal: 29 for 0.29 of 100, although the binary product is below 29."""
    return math.floor(round(slots * share, 9))


def require_slot(kv_budget: int, kept: int, what: str, field: str = "") -> None:
    """Raises unless the budget exceeds the `kept` tokens that always stay; what: these in words; field: their number's
    field.
    """
    if kv_budget <= kept:
        alternative = f", or {field} to at most {max(kv_budget - 1, 0)}" if field else ""
        raise Infeasible(
            f"kv_budget {kv_budget} leaves no slot beside {what}; set kv_budget to at least {kept + 1}{alternative}"
        )
