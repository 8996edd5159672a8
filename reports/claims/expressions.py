"""The closed vocabulary of claims.toml: what can be computed of a run's results, by name. No text is run as code.

Each expression gives parts: an estimate, what it is of, and which verdicts it can support. Where a run cannot be asked,
NotComparable says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reports.claims import head_results, measured, score_results
from reports.claims.evidence import Evidence
from reports.claims.parts import Part
from reports.errors import ReportError

Function = Callable[[Evidence, Mapping[str, Any], Mapping[str, Any]], list[Part]]


@dataclass(frozen=True)
class Expression:
    """unit: of its value. required, optional: arguments, with types. relative: how published values are compared."""

    function: Function
    unit: str
    required: Mapping[str, type]
    optional: Mapping[str, type]
    relative: str = "ratio"
    one_of: tuple[str, ...] = ()  # optional arguments of which exactly one must be there
    digits: int = 1

    def check(self, arguments: Mapping[str, Any], place: str) -> None:
        known = {**self.required, **self.optional}
        for key, value in arguments.items():
            if key not in known:
                raise ReportError(f"{place}: unknown argument {key!r} of the expression; expected {', '.join(known)}")
            if type(value) is not known[key] and not (known[key] is float and type(value) is int):
                raise ReportError(f"{place}: argument {key} must be {known[key].__name__}, got {value!r:.40}")
        if missing := [key for key in self.required if key not in arguments]:
            raise ReportError(f"{place}: the expression lacks {', '.join(missing)}")
        if self.one_of and sum(key in arguments for key in self.one_of) != 1:
            raise ReportError(f"{place}: the expression needs exactly one of {', '.join(self.one_of)}")


EXPRESSIONS: Mapping[str, Expression] = {
    "ratio_to_full": Expression(
        score_results.ratio_to_full,
        "% of full",
        {"method": str},
        {"budgets": list, "share": float, "tasks": list, "question": str},
        one_of=("budgets", "share"),
    ),
    "difference": Expression(
        score_results.difference,
        "points",
        {"method": str, "baseline": str, "budgets": list},
        {"tasks": list},
        relative="difference",
    ),
    "kept_share": Expression(
        measured.kept_share, "% of the cache's bytes", {"tokens": str}, {"max_budget_share": float}, digits=2
    ),
    "peak_memory_ratio": Expression(
        measured.peak_memory_ratio, "% of full", {"method": str, "min_prompt_tokens": int}, {}
    ),
    "latency_ratio": Expression(measured.latency_ratio, "% of full", {"method": str, "min_prompt_tokens": int}, {}),
    "game_hours": Expression(measured.game_hours, "h on four GPUs", {"coalitions_per_size": int, "sizes": int}, {}),
    "mae_over_bar": Expression(head_results.mae_over_bar, "x 1/n", {"coalitions_per_size": int}, {}, digits=2),
    "masking_difference": Expression(
        head_results.masking_difference, "points", {"hurts_more": str, "than": str}, {}, relative="difference"
    ),
    "masking_left": Expression(head_results.masking_left, "% of full", {"rule": str}, {}),
}
