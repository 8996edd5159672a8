"""Cross-task transfer: does CoKV with the head scores of task A still serve task B?

One budget. For every target task, its test samples are answered with the head scores of every source task, and with
uniform budgets (SnapKV, the same scorer and window) and the full cache beside them; all are rows of one decode from
one prefill. A score is a mean over samples in percent; what is compared on a target is compared on the same samples,
and its interval is that of the paired difference.
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
    """CoKV, and SnapKV with the parameters that both have: they differ in the allocator alone."""
    cokv = get_method("cokv", **params)
    known = get_method("snapkv").parameters
    shared: dict[str, Any] = {name: value for name, value in cokv.parameters.items() if name in known}
    return cokv, get_method("snapkv", **shared)


def answers(
    loaded: LoadedModel,
    prompt: Prompt,
    scores: Mapping[str, HeadScores],
    methods: tuple[Method, Method],
    kv_budget: int | str,
) -> dict[str, float]:
    """Percent of one sample by source of the head scores; UNIFORM and FULL beside them."""
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


def matrix(found: Mapping[str, Sequence[Mapping[str, float]]], sources: Sequence[str], seed: int) -> dict[str, Any]:
    """Cells, baselines and averages of the answers of each target: target -> one mapping per sample, as `answers`."""
    if not sources or not found or not all(found.values()):
        raise SuiteError("nothing to transfer: expected head scores of at least one task, and samples of every target")
    cells, baselines = [], []
    means: dict[str, dict[str, tuple[float, FloatArray]]] = {}  # target -> name -> mean, resampled means
    for place, (target, samples) in enumerate(found.items()):
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
        "targets": list(found),
        "cells": cells,
        "baselines": baselines,
        "averages": _averages(means, sources),
    }


def _averages(means: dict[str, dict[str, tuple[float, FloatArray]]], sources: Sequence[str]) -> dict[str, Any]:
    """Over the targets that are sources too: with their own scores, with others' (each other task's), and without."""
    both = [target for target in means if target in sources]
    if len(both) < 2:
        return {}
    pairs = {
        "own": [(target, target) for target in both],
        "transferred": [(target, source) for target in both for source in sources if source != target],
        UNIFORM: [(target, UNIFORM) for target in both],
        FULL: [(target, FULL) for target in both],
    }
    averages = {}
    for name, chosen in pairs.items():
        resampled = np.mean([means[target][which][1] for target, which in chosen], axis=0)
        averages[name] = {"score": float(np.mean([means[t][w][0] for t, w in chosen])), **interval(resampled)}
    own = np.mean([means[t][w][1] for t, w in pairs["own"]], axis=0)
    moved = np.mean([means[t][w][1] for t, w in pairs["transferred"]], axis=0)
    lost = averages["transferred"]["score"] - averages["own"]["score"]
    averages["transferred - own"] = {"score": lost, **interval(moved - own)}
    return averages
