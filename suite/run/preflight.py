"""Checks that an experiment fits its model, before any work is done."""

from __future__ import annotations

import numpy as np

from cokv.model.loading import LoadedModel
from longbench.presets import get_preset
from suite.errors import SuiteError
from suite.heads.halves import estimator, plans
from suite.spec import Experiment


def check_fit(experiment: Experiment, loaded: LoadedModel) -> None:
    """Refuses prompts longer than the model's context, and games whose slice sizes do not fit its KV heads."""
    positions = loaded.shape.context_length
    for section, part in (("ruler", experiment.ruler), ("longbench_mini", experiment.longbench_mini)):
        if part is not None and part.length > positions:
            raise SuiteError(
                f"[{section}] length is {part.length}, the model has {positions} positions; "
                f"choose a length of at most {positions}, or a model that has more"
            )
    if experiment.longbench is not None:
        kept = get_preset(experiment.longbench.protocol).length_for(loaded.name)
        if kept is not None and kept > positions:
            raise SuiteError(
                f"[longbench] protocol {experiment.longbench.protocol!r} keeps prompts of {kept} tokens, the model has "
                f"{positions} positions; choose a protocol that keeps fewer (cokv protocols), or a model that has more"
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
