"""The published value behind a claim, from the table of reported numbers."""

from __future__ import annotations

from collections.abc import Mapping

from reports.errors import ReportError
from reports.reported import PublishedValue, published_values
from reports.reported.table import RATIO_TO_FULL

PRINTED = ("average", RATIO_TO_FULL)  # data sets that are a source's own mean


def published_value(query: Mapping[str, str], relative: str, place: str) -> float:
    """Mean over data sets of a method at a budget; with a baseline the difference from its mean, or percent of it.

    query: paper, method, budget; model, dataset, baseline and baseline_budget where they matter. relative: "difference"
    or "ratio". Data sets are those that both have.
    """
    rows = _rows(query, query["method"], query["budget"])
    if not rows:
        raise ReportError(
            f"{place}: no published value of {query['method']!r} at {query['budget']!r} in {query['paper']!r}"
        )
    if "baseline" not in query:
        return sum(rows.values()) / len(rows)
    base = _rows(query, query["baseline"], query.get("baseline_budget", query["budget"]))
    both = rows.keys() & base.keys()
    if not both:
        raise ReportError(f"{place}: no published value of the baseline {query['baseline']!r} in {query['paper']!r}")
    mean, other = (sum(table[name] for name in sorted(both)) / len(both) for table in (rows, base))
    return mean - other if relative == "difference" else 100 * mean / other


def _rows(query: Mapping[str, str], method: str, budget: str) -> dict[str, float]:
    """Value by data set. One data set may be named; else the printed means count only where there is nothing else."""

    def fits(value: PublishedValue) -> bool:
        named = "dataset" not in query or value.dataset == query["dataset"]
        model = "model" not in query or value.model == query["model"]
        return (value.paper, value.method, value.budget) == (query["paper"], method, budget) and named and model

    percent = {RATIO_TO_FULL: 100.0}  # printed as a fraction
    rows = {value.dataset: percent.get(value.dataset, 1.0) * value.value for value in published_values() if fits(value)}
    single = {name: number for name, number in rows.items() if name not in PRINTED}
    return single or rows
