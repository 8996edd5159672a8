"""Grow, or stay within the budget by evicting the oldest token that is no sink.

`Grow` is what most methods do: answers are short, the new tokens are kept. `EvictOldest` is StreamingLLM's rule
(arXiv 2309.17453): once a head is full, each new token takes the place of the oldest stored position after the sinks.
Differs from the released code: keys keep their absolute rotary positions instead of being re-rotated to their place
in the cache, as for every method here.
"""

from __future__ import annotations

from dataclasses import dataclass

from cokv.types import CokvError


@dataclass(frozen=True)
class Grow:
    """Every generated token is kept."""


@dataclass(frozen=True)
class EvictOldest:
    """Each head holds at most `limit` slots, the first `sinks` of which are never evicted."""

    limit: int
    sinks: int = 4

    def __post_init__(self) -> None:
        if not self.limit > self.sinks >= 0:
            raise CokvError(
                f"a limit of {self.limit} slots with {self.sinks} sinks; "
                "expected 0 <= sinks < limit, so that there is a token to evict"
            )


Policy = Grow | EvictOldest
