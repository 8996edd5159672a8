"""Grow, or stay within the budget by evicting the oldest token that is no sink.

`Grow` is what most methods do: answers are short, the new tokens are kept. `EvictOldest` is StreamingLLM's rule
(arXiv 2309.17453): once a head is full, each new token takes the place of the oldest stored position after the sinks.
Differs from the released code: keys keep their absolute rotary positions instead of being re-rotated to their place
in the cache, as for every method here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from cokv.cache.policies.base import LimitedPolicy, Policy
from cokv.types import Infeasible


@dataclass(frozen=True)
class Grow(Policy):
    """Every generated token is kept."""


@dataclass(frozen=True)
class EvictOldest(LimitedPolicy):
    """Each head holds at most `limit` slots, the first `num_sinks` of which are never evicted."""

    does = "append each new token, drop the oldest that is no sink"

    limit: int | None = None
    num_sinks: int = 4

    def __post_init__(self) -> None:
        if self.num_sinks < 0 or (self.limit is not None and self.limit <= self.num_sinks):
            raise Infeasible(
                f"a limit of {self.limit} slots with {self.num_sinks} sinks; "
                "expected 0 <= num_sinks < limit, so that there is a token to evict"
            )


@dataclass(frozen=True)
class EvictOldestWhereEvicted(EvictOldest):
    """A head that lost tokens of the prompt stays at the size it has then; one that kept the whole prompt grows.

    So the retrieval heads of DuoAttention (arXiv 2410.10819) grow and its streaming heads do not.
    """

    does = "in heads that lost tokens, each new token takes the place of the oldest that is no sink"
    takes_budget = False

    def bind(self, slots: int | None, heads: tuple[int, int], profile: Any = None) -> Self:
        return self
