"""What every policy offers: what it does in words, what it needs of the prompt, and how it is bound to a budget.

A policy is a frozen dataclass whose fields are its hyper-parameters. A method holds it without a budget; `bind` gives
the one that a row's cache follows.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from cokv.types import CokvError

if TYPE_CHECKING:
    from typing import Self


class Policy:
    """What happens to a row's cache while it decodes."""

    does: ClassVar[str] = ""  # in words, for the table of methods; "" where nothing but appending happens
    observers: ClassVar[tuple[Any, ...]] = ()  # what the prefill must observe for it
    takes_budget: bool = False  # whether `bind` needs a number of slots

    @property
    def num_queries(self) -> int:
        """How many of the last prompt queries the prefill must hold: 0 for none."""
        return 0

    def bind(self, slots: int | None, heads: tuple[int, int], profile: Any = None) -> Self:
        """The same for `slots` KV slots per head, on a model of (num_layers, num_kv_heads) heads.

        profile: of the method, for a policy that follows it.
        """
        return self

    def at_layer(self, place: int, num_layers: int) -> Self:
        """What it means for the full-attention layer number `place` of `num_layers`."""
        return self


class LimitedPolicy(Policy):
    """Keeps heads within `limit` slots, a field that is None until the policy is bound."""

    limit: int | None
    takes_budget = True

    def bind(self, slots: int | None, heads: tuple[int, int], profile: Any = None) -> Self:
        if slots is None:
            raise CokvError(f"{type(self).__name__} keeps each head within kv_budget and got none; set kv_budget")
        return replace(self, limit=slots)  # type: ignore[type-var]  # every policy is a dataclass

    @property
    def slots(self) -> int:
        """The limit of a policy that has been bound."""
        assert self.limit is not None, f"{type(self).__name__} was not bound to a budget"
        return self.limit


def policy_parameters(policy: Policy) -> dict[str, Any]:
    """Hyper-parameters by name; the budget is none."""
    return {f.name: getattr(policy, f.name) for f in fields(policy) if f.name != "limit"}  # type: ignore[arg-type]
