"""One row for one arm against another: the paired difference of their scores over all samples of all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from suite.checks.answers import Answered
from suite.checks.context import Row, not_run
from suite.checks.pooled import by_task, difference, mean_of, total
from suite.checks.rules import judged


def against(
    answered: Answered,
    check: str,
    what: str,
    arm: str,
    base: str,
    tasks: Sequence[str] | None = None,
    blocked: str = "",
    **facts: Any,
) -> Row:
    """Is `arm` better than `base`? tasks: None for all that have both. blocked: why the comparison cannot decide."""
    both = [task for task in answered.tasks_of(arm, base) if tasks is None or task in tasks]
    reason = answered.infeasible(arm) or answered.infeasible(base)
    if reason or not both:
        refused = next(iter(answered.why_not(arm, base).values()), "no sample was answered both ways")
        return not_run(check, what, reason or refused)
    scores, base_scores = answered.scores(arm, both), answered.scores(base, both)
    gap = difference(scores, base_scores)
    return {
        "check": check,
        "what": what,
        "of": "samples",
        **gap,
        **judged("gain", gap, total(scores), blocked),
        "arm": mean_of(scores),
        "base": mean_of(base_scores),
        "by_task": {task: {"arm": by_task(scores)[task], "base": by_task(base_scores)[task]} for task in both},
        **({"left_out": left_out} if (left_out := answered.why_not(arm, base)) else {}),
        **facts,
    }
