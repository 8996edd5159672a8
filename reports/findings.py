"""What a run found, in three sentences per benchmark: the best at each budget, what cannot be told from it, and what
cannot be told from the full cache. Every number with its interval; nothing of the kind for a run that ranks nothing.

Two methods are told apart where their intervals do not overlap: stricter than a paired test, for which metrics.json has
only the differences from the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.kv_budget import Budget, budget_order, budget_text
from reports.labels import UNRANKED, Labels, is_full
from reports.records import variant_of
from reports.tables import interval_text, score_text

Row = Mapping[str, Any]
MOST = 6  # names in one list


def findings(metrics: Row, labels: Labels) -> list[str]:
    """Plain sentences, three or fewer of each benchmark."""
    out = [] if labels.ranks else [UNRANKED]
    for benchmark in sorted({row["benchmark"] for row in metrics["averages"]}):
        rows = [row for row in metrics["averages"] if row["benchmark"] == benchmark and "low" in row]
        full = next((row for row in rows if is_full(variant_of(row))), None)
        if not labels.ranks:
            out += [f"On {benchmark} the full cache scores {_score(full)}."] if full else []
            continue
        budgets = sorted({row["kv_budget"] for row in rows if row["kv_budget"] is not None}, key=budget_order)
        at = {budget: [row for row in rows if row["kv_budget"] == budget] for budget in budgets}
        whole = [row for row in rows if row["kv_budget"] is None and row is not full]
        out += _sentences(benchmark, at, whole, full, labels)
    return out


def _sentences(
    benchmark: str, at: Mapping[Budget, Sequence[Row]], whole: Sequence[Row], full: Row | None, labels: Labels
) -> list[str]:
    """at: the rows of each budget; whole: those that keep every position, without the full cache."""
    best = {budget: max(rows, key=lambda row: row["mean"]) for budget, rows in at.items() if len(rows) > 1}
    if not best:
        return []
    leaders = "; ".join(f"{_budget(b)} {_name(row, labels)} with {_score(row)}" for b, row in best.items())
    out = [f"Best average on {benchmark}: {leaders}" + (f"; the full cache: {_score(full)}." if full else ".")]
    near = {b: [row for row in at[b] if row is not top and row["high"] >= top["low"]] for b, top in best.items()}
    out.append(
        "Not told apart from the best, as intervals overlap: "
        + "; ".join(f"{_budget(b)} {_names(rows, labels)}" for b, rows in near.items())
        + "."
    )
    if full:
        kept = {b: [row for row in rows if row["high"] >= full["low"]] for b, rows in [*at.items(), (None, whole)]}
        out.append(
            "Not told apart from the full cache, likewise: "
            + ("; ".join(f"{_budget(b)} {_names(rows, labels)}" for b, rows in kept.items() if rows) or "none")
            + "."
        )
    return out


def _budget(budget: Budget) -> str:
    if budget is None:
        return "with all positions kept"
    return f"at {budget_text(budget)} of the prompt" if isinstance(budget, str) else f"at {budget} slots"


def _name(row: Row, labels: Labels) -> str:
    return labels.name(variant_of(row))


def _score(row: Row) -> str:
    return f"{score_text(row)} {interval_text(row)}"


def _names(rows: Sequence[Row], labels: Labels) -> str:
    """By score, as far as MOST."""
    order = sorted(rows, key=lambda row: (-row["mean"], labels.order(variant_of(row))))
    names = [f"{_name(row, labels)} ({score_text(row)})" for row in order[:MOST]]
    more = [f"{len(order) - MOST} more"] if len(order) > MOST else []
    return ", ".join([*names, *more]) or "none"
