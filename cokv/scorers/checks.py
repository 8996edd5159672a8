"""What scorers check alike: their fields, and the budget against what they always keep."""

from __future__ import annotations

from cokv.types import CokvError


def require_whole(fields: object, **least: int) -> None:
    """Each named field is a whole number, and not below its least one."""
    for name, low in least.items():
        value = getattr(fields, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise CokvError(f"{name} is {value!r}, expected a whole number, {low} or more")


def require_odd_kernel(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise CokvError(f"kernel_size is {kernel_size}, expected an odd number (same padding has a centre)")


def require_slot(kv_budget: int, kept: int, what: str, field: str = "") -> None:
    """There is room beside what is always kept: `kept` tokens, in words, and the field that says how many."""
    if kv_budget <= kept:
        other = f", or {field} to at most {max(kv_budget - 1, 0)}" if field else ""
        raise CokvError(
            f"kv_budget {kv_budget} leaves no slot beside {what}; set kv_budget to at least {kept + 1}{other}"
        )
