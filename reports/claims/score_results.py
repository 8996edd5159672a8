"""Expressions over the scores of samples: a method against another, or as a share of the full cache's score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reports.claims.estimates import difference_estimate, ratio_estimate
from reports.claims.evidence import Evidence
from reports.claims.parts import NotComparable, Part
from reports.claims.sample_scores import Line, SampleScores, Task
from reports.intervals import Floats
from reports.kv_budget import Budget, budget_text
from reports.records import FULL

ALL = "all"  # in place of a budget: every token is kept, as quantization does
UNSEEN = "unseen"
NEAR = 1.1  # a budget within a tenth of the claim's share is at it


def difference(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """Mean paired difference in points, method minus baseline ("full": the full cache), over the run's budgets."""
    method, baseline = arguments["method"], arguments["baseline"]
    scores, tasks = _asked(evidence, arguments, condition)
    lines = _lines(scores, method, arguments["budgets"], condition)
    bases = [scores.full(line) if baseline == FULL else scores.beside(line, baseline) for line in lines]
    kept = [(line, base) for line, base in zip(lines, bases, strict=True) if base is not None]
    if not kept:
        raise NotComparable(f"the run has no scores of {baseline} beside those of {method}")
    lines = [line for line, _ in kept]
    strata, left_out = _strata(scores, lines, [base for _, base in kept], tasks)
    gaps = [first - second for first, second in strata.values()]
    estimate = difference_estimate(gaps, "samples", _basis(evidence))
    return [Part(estimate, _where(evidence, lines, tuple(strata), left_out))]


def ratio_to_full(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """Mean score in percent of the full cache's.

    budgets: the mean over those that a run has. share: at the nearest budgets on either side of this share of the
    prompt; what is kept with less is kept with the claim's share too, and what is lost with more is lost with it too.
    question = "unseen": the claim's question arrives after tokens are chosen. Where it was seen, which is easier for a
    method that scores by the last tokens of the prompt, what is kept shows nothing, and what is lost does.
    """
    scores, tasks = _asked(evidence, arguments, condition)
    unseen = arguments.get("question") == UNSEEN
    if "budgets" in arguments:
        lines = _lines(scores, arguments["method"], arguments["budgets"], condition)
        return [_ratio(evidence, scores, lines, tasks)]
    share = arguments["share"]
    shares = {
        line: kept
        for line in _variant_lines(scores, arguments["method"], condition, unseen)
        if scores.scored(line) and (kept := scores.shares.get(line)) is not None
    }
    if not shares:
        raise NotComparable(f"the run has no scores of {arguments['method']} at a budget")
    below = [line for line, kept in shares.items() if kept <= share * NEAR]
    above = [line for line, kept in shares.items() if kept >= share / NEAR]
    at_most = max(below, key=lambda line: shares[line], default=None)
    at_least = min(above, key=lambda line: shares[line], default=None)
    parts = []
    for line in dict.fromkeys(line for line in (at_most, at_least) if line is not None):
        off = "" if line == at_most and line == at_least else "no budget lies at the claim's share"
        seen = "the question was seen when tokens were chosen" if unseen and line[1].query_aware else ""
        part = _ratio(evidence, scores, [line], tasks)
        limit = " and ".join(filter(None, (off, seen)))
        reproduces, contradicts = line == at_most and not seen, line == at_least
        at = _at(scores, [line])
        parts.append(replace(part, reproduces=reproduces, contradicts=contradicts, limit=limit, at=at))
    return parts


def _ratio(evidence: Evidence, scores: SampleScores, lines: list[Line], tasks: Sequence[Task]) -> Part:
    full = scores.full(lines[0])
    if full is None:
        raise NotComparable("the run has no scores of the full cache")
    strata, left_out = _strata(scores, lines, [full], tasks)
    tops, bottoms = [top for top, _ in strata.values()], [bottom for _, bottom in strata.values()]
    if np.mean([bottom.mean() for bottom in bottoms]) == 0:
        raise NotComparable("the full cache scores 0 on these tasks")
    estimate = ratio_estimate(tops, bottoms, "samples", _basis(evidence))
    return Part(estimate, _where(evidence, lines, tuple(strata), left_out))


def _asked(
    evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]
) -> tuple[SampleScores, tuple[Task, ...]]:
    """The scores, and the tasks that the claim is about."""
    if evidence.scores is None:
        raise NotComparable("the folder holds no scores of samples (predictions.jsonl of a run, or answers.parquet)")
    tasks = evidence.tasks
    if "benchmark" in condition:
        tasks = tuple(task for task in tasks if task[0] == condition["benchmark"])
    if "tasks" in condition:
        tasks = tuple(task for task in tasks if task[1] in condition["tasks"])
    if "tasks" in arguments:
        tasks = tuple(task for task in tasks if task[1].startswith(tuple(arguments["tasks"])))
    if not tasks:
        raise NotComparable("the run has none of the claim's tasks")
    return evidence.scores, tasks


def _variant_lines(scores: SampleScores, method: str, condition: Mapping[str, Any], unseen: bool = False) -> list[Line]:
    """Lines of one variant of a method: its normalized preset or its only one, under the claim's protocol."""
    lines = scores.lines(method)
    if "query_aware" in condition:
        lines = [line for line in lines if line[1].query_aware == condition["query_aware"]]
    if not lines:
        raise NotComparable(f"the run has no {method}")
    variants = {line[1] for line in lines if scores.scored(line)} or {lines[0][1]}
    # Before others: our budget rule, the claim's question, and the first token of the prefill, as released.
    order = {v: (v.preset != "normalized", v.query_aware == unseen, v.first_token != "prefill", v) for v in variants}
    chosen = min(variants, key=lambda variant: order[variant])
    return [line for line in lines if line[1] == chosen]


def _lines(scores: SampleScores, method: str, budgets: Sequence[int | str], condition: Mapping[str, Any]) -> list[Line]:
    """The method's lines at those of the budgets that the run has, feasible and smaller than the prompt."""
    wanted: list[Budget] = [None if budget == ALL else budget for budget in budgets]
    lines = [line for line in _variant_lines(scores, method, condition) if line[0] in wanted]
    if not lines:
        raise NotComparable(f"the run has no {method} at {_budgets(wanted)}")
    feasible = [line for line in lines if scores.scored(line)]
    if not feasible:
        raise NotComparable(f"{method} is infeasible at {_budgets(wanted)} on this model")
    smaller = [line for line in feasible if scores.shares.get(line, 0.0) < 1]
    if not smaller:
        raise NotComparable(f"a budget of {_budgets(wanted)} holds the whole prompt here")
    return smaller


def _strata(
    scores: SampleScores, lines: Sequence[Line], bases: Sequence[Line], tasks: Sequence[Task]
) -> tuple[dict[Task, tuple[Floats, Floats]], list[str]]:
    """Paired scores per task, and the tasks left out because fewer than two samples have both."""
    paired = scores.paired(lines, bases, tasks)
    strata = {task: pair for task, pair in paired.items() if len(pair[0]) >= 2}
    if not strata:
        raise NotComparable("an interval needs two samples of a task that both sides answered")
    return strata, [task[1] for task in tasks if task not in strata]


def _basis(evidence: Evidence) -> str:
    return f"{evidence.source}, paired by sample, tasks alike"


def _where(evidence: Evidence, lines: Sequence[Line], tasks: tuple[Task, ...], left_out: Sequence[str]) -> str:
    assert evidence.scores is not None
    without = f", without {', '.join(left_out)}" if left_out else ""
    return f"{evidence.task_words(tasks)}, {_at(evidence.scores, lines)}{without}"


def _at(scores: SampleScores, lines: Sequence[Line]) -> str:
    """The budgets; of slots, also what share of the prompt they are."""
    shares = [scores.shares[line] for line in lines if isinstance(line[0], int) and line in scores.shares]
    of_prompt = f" ({' and '.join(f'{100 * share:.2g} %' for share in shares)} of the prompt)" if shares else ""
    return _budgets([line[0] for line in lines]) + of_prompt


def _budgets(budgets: Sequence[Budget]) -> str:
    shares = ["all tokens" if budget is None else f"{budget_text(budget)} of the prompt" for budget in budgets]
    slots = [str(budget) for budget in budgets if isinstance(budget, int)]
    return " and ".join(slots) + " slots" if slots else " and ".join(shares)
