"""Checks that an experiment fits its model, before any work is done."""

from __future__ import annotations

import numpy as np

from cokv.model.loading import LoadedModel
from suite.errors import SuiteError
from suite.heads.halves import estimator, plans
from suite.spec import Experiment
from suite.tasks import longbench_tasks


def check_fit(experiment: Experiment, loaded: LoadedModel) -> None:
    """Refuses prompts longer than the model's context, and games whose slice sizes do not fit its KV heads."""
    positions = loaded.shape.context_length
    for section, part in (("ruler", experiment.ruler), ("longbench_mini", experiment.longbench_mini)):
        if part is not None and part.length > positions:
            raise SuiteError(
                f"[{section}] length is {part.length}, the model has {positions} positions; "
                f"choose a length of at most {positions}, or a model that has more"
            )
    if experiment.needle is not None and experiment.needle.longest > positions:
        raise SuiteError(
            f"[needle] tasks names a length of {experiment.needle.longest}, the model has {positions} positions; "
            f"choose lengths of at most {positions}, or a model that has more"
        )
    if experiment.longbench is not None:
        protocol = experiment.longbench.resolved()
        kept = protocol.length_for(loaded.name)
        answer = longbench_tasks.longest_answer(experiment.longbench)
        if kept is not None and kept + answer > positions:
            raise SuiteError(
                f"[longbench] protocol {protocol.name!r} keeps prompts of {kept} tokens and answers of up to {answer}, "
                f"the model has {positions} positions; {longbench_tasks.remedy(experiment.longbench, loaded)}"
            )
    if experiment.measure is not None:
        measured_tokens = experiment.measure.prompt_tokens + experiment.measure.new_tokens
        if measured_tokens > positions:
            raise SuiteError(
                f"[measure] prompt_tokens + new_tokens is {measured_tokens}, the model has {positions} positions; "
                f"choose at most {positions} together, or a model that has more"
            )
    if experiment.game is not None:
        players = loaded.shape.num_layers * loaded.shape.num_kv_heads
        for plan in plans(experiment.game, players):  # `aggregate` raises if a player is never drawn
            estimator(experiment.game, players).aggregate(plan, np.zeros(len(plan.coalitions)))
