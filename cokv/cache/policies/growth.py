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
    """Each head holds at most `limit` slots, the first `sinks` of which are never evicted.

    limit None: a head that lost tokens of the prompt stays at the size it has then; one that kept the whole prompt
    grows. So the retrieval heads of DuoAttention (arXiv 2410.10819) grow and its streaming heads do not.
    """

    limit: int | None
    sinks: int = 4

    def __post_init__(self) -> None:
        if self.sinks < 0 or (self.limit is not None and self.limit <= self.sinks):
            raise CokvError(
                f"a limit of {self.limit} slots with {self.sinks} sinks; "
                "expected 0 <= sinks < limit, so that there is a token to evict"
            )
