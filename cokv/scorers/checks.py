"""What scorers have in common: checks of their fields, and how a scorer without an observation window answers."""

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


def require_half_beside_the_window(kv_budget: int, window_size: int) -> None:
    """A window that took more than half of the slots would leave little to choose."""
    if kv_budget < 2 * window_size:
        raise CokvError(
            f"kv_budget {kv_budget} is below {2 * window_size}, twice the window of {window_size}; "
            f"set kv_budget to at least {2 * window_size}, or window_size to at most {kv_budget // 2}"
        )


class Windowless:
    """Needs no window queries. Unless a scorer says otherwise, it keeps no token come what may, at any budget."""

    @property
    def window_size(self) -> int:
        return 0

    def reserved(self, seq_len: int) -> int:
        return 0

    def check_budget(self, kv_budget: int) -> None:
        """Any budget will do."""
