"""Check 6: is a task's own profile worth more than another one?

Others: each other task's, inside its category and across categories; the mean profile of all checked tasks (the paper's
unified profile); and layer averages of another model: the embedded model's shipped SSV averaged in each layer,
interpolated over relative depth to this model's layers, equal for all KV heads of a layer.
"""

from __future__ import annotations

import numpy as np

from cokv.model.loading import EMBEDDED
from cokv.profiles.load import load_profile
from cokv.types import FloatArray, HeadScores
from suite.checks.answers import Answered, Arm
from suite.checks.compared import against
from suite.checks.context import Context, Row, category, not_run
from suite.checks.pooled import difference, mean_of, total
from suite.checks.rules import judged
from suite.checks.settings import own_arm
from suite.spec import SHAPLEY

NAME = "profiles"
OWN, UNIFIED, LAYERS = (f"{NAME}/{name}" for name in ("own", "unified", "layer averages"))


def arms(context: Context, task: str) -> dict[str, Arm]:
    own = own_arm(context, task)

    def with_profile(profile: HeadScores) -> Arm:
        return Arm(own.method, own.params, own.kv_budget, profile, own.first_token)

    out = {OWN: own, UNIFIED: with_profile(unified(context))}
    out |= {_of(t): with_profile(context.scores[t]) for t in context.tasks if t != task}
    if context.experiment.model.name != EMBEDDED:
        out[LAYERS] = with_profile(layer_averages(context.loaded.shape.num_layers, context.loaded.shape.num_kv_heads))
    return out


def _of(task: str) -> str:
    return f"{NAME}/of {task}"


def unified(context: Context) -> HeadScores:
    """The mean over the checked tasks."""
    values = np.mean([context.scores[task].values for task in context.tasks], axis=0)
    return HeadScores(values, {"kind": SHAPLEY, "tasks": list(context.tasks)})


def layer_averages(num_layers: int, num_kv_heads: int) -> HeadScores:
    """The embedded model's layer means over relative depth, for a model of this shape."""
    means = load_profile((f"{EMBEDDED}/cokv",)).values.mean(axis=1)
    return HeadScores(
        np.repeat(resampled(means, num_layers)[:, None], num_kv_heads, axis=1),
        {"kind": SHAPLEY, "model": EMBEDDED, "resampled": "layer means, linear over relative depth"},
    )


def resampled(means: FloatArray, num_layers: int) -> FloatArray:
    """Layer means at the middles of `num_layers` layers, linear between the middles of the given ones, flat outside."""
    places = (np.arange(len(means)) + 0.5) / len(means)
    return np.interp((np.arange(num_layers) + 0.5) / num_layers, places, means)


def rows(context: Context, answered: Answered) -> list[Row]:
    out = [_other_tasks(context, answered, inside) for inside in (True, False)]
    what = "Own profile better than the mean of all tasks?"
    if len(context.tasks) > 1:
        out.append(against(answered, NAME, what, OWN, UNIFIED))
    else:
        out.append(not_run(NAME, what, "one task alone is its own mean; name more tasks"))
    what = "Own profile better than another model's layer averages?"
    if context.experiment.model.name == EMBEDDED:
        out.append(not_run(NAME, what, "the shipped profile is this model's own"))
    else:
        note = "the embedded model's shipped SSV, averaged per layer, interpolated over relative depth"
        row = against(answered, NAME, what, OWN, LAYERS)
        out.append(row if "not_run" in row else {**row, "note": f"Layer averages: {note}."})
    return out


def _other_tasks(context: Context, answered: Answered, inside: bool) -> Row:
    """Own profiles against the mean over the other tasks' inside (or outside) the category, over the tasks with any."""
    words = "inside its category" if inside else "of other categories"
    what = f"Own profile better than those of tasks {words}?"
    kinds = {task: category(context.experiment, task) for task in context.tasks}
    others = {t: [s for s in kinds if s != t and (kinds[s] == kinds[t]) == inside] for t in kinds}
    usable = {task: [s for s in sources if task in answered.tasks_of(OWN, _of(s))] for task, sources in others.items()}
    usable = {task: sources for task, sources in usable.items() if sources}
    if not usable:
        reason = "no valid profiles of two tasks " + ("of one category" if inside else "of different categories")
        return not_run(NAME, what, reason)
    own, other = answered.scores(OWN, list(usable)), {}
    for task, sources in usable.items():
        other[task] = np.mean([answered.scores(_of(source), [task])[task] for source in sources], axis=0)
    gap = difference(own, other)
    facts = {"arm": mean_of(own), "base": mean_of(other), "pairs": usable}
    return {"check": NAME, "what": what, "of": "samples", **gap, **judged("gain", gap, total(own)), **facts}
