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
from reports.intervals import Resamples, estimate, interval
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


def matrix(
    answers_by_target: Mapping[str, Sequence[Mapping[str, float]]], sources: Sequence[str], seed: int
) -> dict[str, Any]:
    """Cells, baselines and averages. answers_by_target: by target, one mapping per sample, as of `answers`."""
    if not sources or not answers_by_target or not all(answers_by_target.values()):
        raise SuiteError("nothing to transfer: expected head scores of at least one task, and samples of every target")
    cells, baselines = [], []
    means: dict[str, dict[str, tuple[float, FloatArray]]] = {}  # target -> name -> mean, resampled means
    for place, (target, samples) in enumerate(answers_by_target.items()):
        resamples = Resamples.draw(len(samples), seed + place)
        table = {name: np.array([sample[name] for sample in samples]) for name in (*sources, UNIFORM, FULL)}
        resampled = {name: resamples.means(scores) for name, scores in table.items()}
        means[target] = {name: (float(scores.mean()), resampled[name]) for name, scores in table.items()}
        for name in (UNIFORM, FULL):
            baselines.append({"name": name, "target": target, **estimate(table[name], resampled[name])})
        for source in sources:
            cell = {"source": source, "target": target, "samples": len(samples)}
            cell |= estimate(table[source], resampled[source])
            if target in sources and target != source:
                cell["to_own"] = estimate(table[source] - table[target], resampled[source] - resampled[target])
            cell["to_uniform"] = estimate(table[source] - table[UNIFORM], resampled[source] - resampled[UNIFORM])
            cells.append(cell)
    return {
        "sources": list(sources),
        "targets": list(answers_by_target),
        "cells": cells,
        "baselines": baselines,
        "averages": _averages(means, sources),
    }


def _averages(means: dict[str, dict[str, tuple[float, FloatArray]]], sources: Sequence[str]) -> dict[str, Any]:
    """Over the targets that are sources too: with their own scores, with each other task's, uniform and full."""
    tasks = [target for target in means if target in sources]
    if len(tasks) < 2:
        return {}
    pairs = {
        "own": [(target, target) for target in tasks],
        "transferred": [(target, source) for target in tasks for source in sources if source != target],
        UNIFORM: [(target, UNIFORM) for target in tasks],
        FULL: [(target, FULL) for target in tasks],
    }
    averages = {}
    for name, cells in pairs.items():
        resampled = np.mean([means[target][which][1] for target, which in cells], axis=0)
        averages[name] = {"score": float(np.mean([means[t][w][0] for t, w in cells])), **interval(resampled)}
    own_scores = np.mean([means[t][w][1] for t, w in pairs["own"]], axis=0)
    transferred = np.mean([means[t][w][1] for t, w in pairs["transferred"]], axis=0)
    lost = averages["transferred"]["score"] - averages["own"]["score"]
    averages["transferred - own"] = {"score": lost, **interval(transferred - own_scores)}
    return averages
