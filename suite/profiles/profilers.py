"""The profilers: how each method's profile is computed for an experiment, and the settings it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

from cokv.methods.method import Method
from cokv.model.loading import LoadedModel
from cokv.profiles.duo_gates import Training, train_gates
from cokv.profiles.headkv_scores import retrieval_scores
from cokv.profiles.load import Profile
from cokv.profiles.lukv_curves import lukv_curves
from cokv.profiles.razor_scores import razor_scores
from cokv.types import JSON
from suite.errors import SuiteError
from suite.profiles.prompts import PASSKEYS, needle_prompts, needle_spec, passkey_prompts, profiling_prompts
from suite.spec import Experiment, ProfilesSpec
from suite.tasks import ruler_tasks
from suite.tasks.benchmarks import task_names

Profiler: TypeAlias = Callable[[Experiment, LoadedModel, ProfilesSpec, Method], Profile]
VERSION = 2  # of the profilers: part of a run's identity


def settings_of(experiment: Experiment, spec: ProfilesSpec, method: Method) -> dict[str, JSON]:
    if method.name not in PROFILERS:
        raise SuiteError(
            f"{method.name} needs {method.profile}, which is computed for {', '.join(PROFILERS)} only; name a file of "
            f"it as [profiles] {method.name}"
        )
    return {"version": VERSION, "seed": spec.seed, **SETTINGS[method.name](experiment, spec, method)}


def _needle_settings(experiment: Experiment, spec: ProfilesSpec, method: Method) -> dict[str, JSON]:
    ruler = needle_spec(experiment)
    return {
        "needles": {**ruler.model_dump(mode="json", exclude={"essays", "questions", "data", "revision"})},
        **_wording(ruler),
    }


def _duo_settings(experiment: Experiment, spec: ProfilesSpec, method: Method) -> dict[str, JSON]:
    ruler = needle_spec(experiment, PASSKEYS, spec.passkey_length)
    passkeys = ruler.model_dump(mode="json", exclude={"essays", "questions", "data", "revision"})
    return {"passkeys": passkeys, **_wording(ruler), **asdict(_training(spec, method))}


def _wording(ruler: Any) -> dict[str, JSON]:
    return {"ruler": ruler_tasks.identity(ruler)}


def _training(spec: ProfilesSpec, method: Method) -> Training:
    """Gates are trained for the sinks and the window that the method keeps."""
    sinks, local = method.parameters["num_sinks"], method.parameters["local"]
    assert isinstance(sinks, int) and isinstance(local, int)
    return Training(sinks, local, spec.steps, seed=spec.seed)


def _lukv_settings(experiment: Experiment, spec: ProfilesSpec, method: Method) -> dict[str, JSON]:
    settings: dict[str, JSON] = {"tasks": list(task_names(experiment)), "parameters": method.parameters}
    return {**settings, "prompts": spec.task_prompts, "per_layer": spec.per_layer}


SETTINGS: Mapping[str, Callable[[Experiment, ProfilesSpec, Method], dict[str, JSON]]] = {
    "razorattention": lambda experiment, spec, method: {"period": spec.period},
    "headkv_r": _needle_settings,
    "headkv_r2": _needle_settings,
    "duoattention": _duo_settings,
    "lukv": _lukv_settings,
}


def _razor(experiment: Experiment, loaded: LoadedModel, spec: ProfilesSpec, method: Method) -> Profile:
    start = tuple(loaded.tokenizer.encode(""))  # what the tokenizer puts before every prompt
    return razor_scores(loaded.model, spec.period, spec.seed, start)


def _headkv(kind: Any) -> Profiler:
    def compute(experiment: Experiment, loaded: LoadedModel, spec: ProfilesSpec, method: Method) -> Profile:
        return retrieval_scores(loaded.model, needle_prompts(experiment, loaded), kind)

    return compute


def _duo(experiment: Experiment, loaded: LoadedModel, spec: ProfilesSpec, method: Method) -> Profile:
    prompts = passkey_prompts(experiment, loaded, spec.passkey_length)
    return train_gates(loaded.model, prompts, _training(spec, method))


def _lukv(experiment: Experiment, loaded: LoadedModel, spec: ProfilesSpec, method: Method) -> Profile:
    assert method.scorer is not None
    prompts = profiling_prompts(experiment, loaded, spec.task_prompts)
    return lukv_curves(loaded.model, prompts, method.scorer, loaded.tokenizer, spec.per_layer)


PROFILERS: Mapping[str, Profiler] = {
    "razorattention": _razor,
    "headkv_r": _headkv("R"),
    "headkv_r2": _headkv("R2"),
    "duoattention": _duo,
    "lukv": _lukv,
}
