"""What an expression gives back, and how it says that a run cannot be asked."""

from __future__ import annotations

from dataclasses import dataclass

from reports.claims.estimates import Estimate


class NotComparable(Exception):
    """A run holds nothing that speaks to the claim; the message says what is missing."""


@dataclass(frozen=True)
class Part:
    """where: tasks, budgets, counts. A part may be able to support one verdict only, and `limit` then says why: a
    method that loses much with more than the claim's share of the cache contradicts it, but one that loses little with
    more has not shown it.
    """

    estimate: Estimate
    where: str
    reproduces: bool = True
    contradicts: bool = True
    limit: str = ""
    at: str = ""  # the budget alone, where a claim has several parts
