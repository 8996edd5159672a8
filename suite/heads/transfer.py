"""Cross-task transfer: does CoKV with the head scores of task A still serve task B?

One budget. Every target task's test samples are answered with the head scores of every source task, with uniform
budgets (SnapKV, the same scorer and window) and with the full cache; all are rows of one decode from one prefill. A
score is a mean over samples in percent; a difference on a target is paired over its samples, and so is its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cokv.methods.method import Method
from cokv.methods.registry import get_method
from cokv.model.loading import LoadedModel
from cokv.types import FloatArray, HeadScores, Infeasible, KVBudget
from reports.intervals import estimate
from suite.errors import SuiteError
from suite.run.answers import Request, answer
from suite.tasks.prompt import Prompt, text_of

UNIFORM, FULL = "uniform", "full"


def methods_of(params: Mapping[str, Any]) -> tuple[Method, Method]:
    """CoKV, and SnapKV with the parameters that both have: they differ only in the allocator."""
    cokv = get_method("cokv", **params)
    parameters = get_method("snapkv").parameters
    shared: dict[str, Any] = {name: value for name, value in cokv.parameters.items() if name in parameters}
    return cokv, get_method("snapkv", **shared)


def answers(
    loaded: LoadedModel,
    prompt: Prompt,
    scores: Mapping[str, HeadScores],
    methods: tuple[Method, Method],
    kv_budget: int | str,
) -> dict[str, float]:
    """Score of one sample in percent by source of the head scores, and for UNIFORM and FULL."""
    cokv, snapkv = methods
    budget = KVBudget.parse(kv_budget)
    requests = {name: Request(cokv, budget, profile) for name, profile in scores.items()}
    requests[UNIFORM] = Request(snapkv, budget)
    requests[FULL] = Request(get_method("full"), None)
    _, compressed = answer(loaded, prompt.context_ids, list(requests.values()), prompt.stop, prompt.question_ids)
    percents = {}
    for name, one in zip(requests, compressed, strict=True):
        if one.decoded is None:
            raise Infeasible(one.infeasible)
        percents[name] = prompt.metric(text_of(loaded, one.decoded.tokens), prompt.references)
    return percents


def matrix(answers_by_target: Mapping[str, Sequence[Mapping[str, float]]], sources: Sequence[str]) -> dict[str, Any]:
    """Cells, baselines and averages. answers_by_target: by target, one mapping per sample, as of `answers`."""
    if not sources or not answers_by_target or not all(answers_by_target.values()):
        raise SuiteError("nothing to transfer: expected head scores of at least one task, and samples of every target")
    cells, baselines = [], []
    scores: dict[str, dict[str, FloatArray]] = {}  # by target and name [samples]
    for target, samples in answers_by_target.items():
        table = {name: np.array([sample[name] for sample in samples]) for name in (*sources, UNIFORM, FULL)}
        scores[target] = table
        baselines += [{"name": name, "target": target, **estimate([table[name]])} for name in (UNIFORM, FULL)]
        for source in sources:
            cell = {"source": source, "target": target, "samples": len(samples), **estimate([table[source]])}
            if target in sources and target != source:
                cell["to_own"] = estimate([table[source] - table[target]], paired=True)
            cell["to_uniform"] = estimate([table[source] - table[UNIFORM]], paired=True)
            cells.append(cell)
    return {
        "sources": list(sources),
        "targets": list(answers_by_target),
        "cells": cells,
        "baselines": baselines,
        "averages": _averages(scores, sources),
    }


def _averages(scores: Mapping[str, Mapping[str, FloatArray]], sources: Sequence[str]) -> dict[str, Any]:
    """Over the targets that are sources too: with their own scores, with each other task's, uniform and full."""
    tasks = [target for target in scores if target in sources]
    if len(tasks) < 2:
        return {}
    own = [scores[task][task] for task in tasks]
    others = [np.mean([scores[task][source] for source in sources if source != task], axis=0) for task in tasks]
    return {
        "own": estimate(own),
        "transferred": estimate(others),
        UNIFORM: estimate([scores[task][UNIFORM] for task in tasks]),
        FULL: estimate([scores[task][FULL] for task in tasks]),
        "transferred - own": estimate([a - b for a, b in zip(others, own, strict=True)], paired=True),
    }
