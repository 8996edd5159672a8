"""KV budgets as records state them: slots per head (256), a share of the prompt ("20%"), or null for the full cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Budget: TypeAlias = int | str | None
EXPECTED = 'an integer >= 1, a share such as "20%", or null for the full cache'


def percent_of(kv_budget: object) -> float | None:
    """The percentage of a share, None of any other value."""
    if not isinstance(kv_budget, str) or re.fullmatch(r"\d+(\.\d+)?%", kv_budget, re.ASCII) is None:
        return None
    return float(kv_budget[:-1])


def is_budget(value: object) -> bool:
    if isinstance(value, str):
        return 0 < (percent_of(value) or 0) <= 100
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def budget_order(kv_budget: Budget) -> tuple[int, float]:
    """Sort key: the full cache (null) first, then numbers of slots, then shares, each ascending."""
    if kv_budget is None:
        return 0, 0.0
    return (2, percent_of(kv_budget) or 0.0) if isinstance(kv_budget, str) else (1, kv_budget)


def slots_of(row: Mapping[str, Any]) -> float | None:
    """Slots per head of a record or a row of the metrics; None of the full cache, and of a share that states none."""
    kv_budget: int | str | None = row.get("kv_budget")
    return row.get("kv_slots") if isinstance(kv_budget, str) else kv_budget


def mean_slots(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Mean over the rows that state their slots; None where none does."""
    slots = [number for row in rows if (number := slots_of(row)) is not None]
    return sum(slots) / len(slots) if slots else None


def budget_text(kv_budget: Budget) -> str:
    percent = percent_of(kv_budget)
    if percent is not None:
        return f"{percent:g} %"
    return "full" if kv_budget is None else str(kv_budget)


def slots_text(row: Mapping[str, Any]) -> str:
    """What a share comes to in a row of the metrics: "(213 slots)"; "" for a number of slots."""
    slots = row.get("kv_slots") if isinstance(row.get("kv_budget"), str) else None
    return "" if slots is None else f"({slots:.0f} slots)"


def budget_words(row: Mapping[str, Any]) -> str:
    """For a sentence: "64 KV slots per head", or "20 % of the prompt (213 slots)"."""
    if isinstance(row["kv_budget"], str):
        return f"{budget_text(row['kv_budget'])} of the prompt {slots_text(row)}".rstrip()
    return f"{row['kv_budget']} KV slots per head"


def slot_positions(rows: Sequence[Mapping[str, Any]]) -> dict[Budget, float]:
    """Where each budget of `rows` lies on an axis of slots, in order of budgets; a share lies at its mean slots."""
    budgets = sorted({row["kv_budget"] for row in rows}, key=budget_order)
    means = {budget: mean_slots(row for row in rows if row["kv_budget"] == budget) for budget in budgets}
    return {budget: slots for budget, slots in means.items() if slots is not None}
