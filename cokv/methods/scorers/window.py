"""Base classes of scorers with an observation window, the last `window_size` prompt tokens, and without one."""

from __future__ import annotations

from cokv.types import Infeasible


class Windowed:
    """The window itself stays, and takes at most half of the slots, so that some are left for the rest."""

    window_size: int

    def reserved(self, seq_len: int) -> int:
        return min(self.window_size, seq_len)

    def check_budget(self, kv_budget: int) -> None:
        if kv_budget < 2 * self.window_size:
            raise Infeasible(
                f"kv_budget {kv_budget} is below {2 * self.window_size}, twice the window of {self.window_size}; "
                f"set kv_budget to at least {2 * self.window_size}, or window_size to at most {kv_budget // 2}"
            )


class Windowless:
    """Needs no window queries, reserves no token and takes any budget, unless a scorer overrides one of these."""

    @property
    def window_size(self) -> int:
        return 0

    def reserved(self, seq_len: int) -> int:
        return 0

    def check_budget(self, kv_budget: int) -> None:
        """Any budget is valid."""
