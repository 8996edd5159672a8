"""Profiles in a folder: of a run, or shipped with a model.

Shapley values come per task; their mean over tasks is used for a prompt of no known task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cokv.methods.method import Method
from cokv.model.loading import LoadedModel
from cokv.profiles.evidence import reliability
from cokv.profiles.load import Profile
from cokv.profiles.shipped import SHAPLEY_STEM, SUFFIX, model_of_digest, profile_name, shipped_folders
from cokv.types import JSON, HeadScores
from reports.rundir import REPRODUCE
from suite.errors import SuiteError
from suite.profiles.run_profiles import read_stored
from suite.spec import SHAPLEY

MEAN = f"{SHAPLEY}, mean over tasks"
SHAPLEY_FILE = f"{SHAPLEY_STEM}{SUFFIX}"  # of the shipped profiles


@dataclass(frozen=True)
class SourcedProfile:
    """A profile, and where it comes from: the end of a sentence."""

    profile: Profile
    origin: str


@dataclass(frozen=True)
class ProfileFolder:
    """A folder of profiles by name, and the head scores to use of those per task. origin: the end of a sentence."""

    folder: Path
    origin: str
    shapley: HeadScores | None

    def of(self, method: Method, digest: str) -> SourcedProfile | str:
        """A method's profile on the model of this digest, or why there is none."""
        profile: Profile | str | None = read_stored(self.folder / profile_name(method))
        if profile is None and SHAPLEY in method.profile_kinds:
            profile = self.shapley
        if profile is None:
            return f"needs {method.profile}, and there are none {self.origin}; give them with --profile FILE"
        if isinstance(profile, str):
            return f"needs {method.profile}, and there are none {self.origin}: {profile}"
        model = profile.provenance.get("model")
        if isinstance(model, dict) and model.get("digest") != digest:
            return (
                f"needs {method.profile}, and those {self.origin} were made on another model; give them with "
                "--profile FILE"
            )
        return SourcedProfile(profile, self.origin + _of_task(profile) + _made_for(profile, method))


def _of_task(profile: Profile) -> str:
    """The task, or of how many tasks it is the mean, as the end of a sentence."""
    task, tasks = (profile.provenance.get(name) for name in ("task", "tasks"))
    if profile.provenance.get("kind") == MEAN and isinstance(tasks, list):
        return f", mean over {len(tasks)} task{'s' * (len(tasks) != 1)}"
    return f", task {task}" if isinstance(task, str) else ""


def _made_for(profile: Profile, method: Method) -> str:
    """Method parameters that differ from those that the profile was computed with, as the end of a sentence."""
    settings = profile.provenance.get("settings")
    if not isinstance(settings, dict):
        return ""
    computed_with = settings.get("parameters")
    if not isinstance(computed_with, dict):
        computed_with = {"num_sinks": settings.get("sinks"), "local": settings.get("recent")}
    parameters = {name: value for name, value in computed_with.items() if value is not None}
    different = [f"{k}={v}" for k, v in parameters.items() if method.parameters.get(k, v) != v]
    return f", made for {', '.join(different)}" if different else ""


def of_run(run: Path, task: str | None, loaded: LoadedModel) -> ProfileFolder:
    """The profiles of a run on this model, with the head scores of one task, or the mean over all."""
    digest = digest_of(run)
    if digest != loaded.digest:
        raise SuiteError(
            f"{run} was run on a model of digest {digest}, this one has {loaded.digest}; name a run of the same model"
        )
    return stored_in(run, task)


def digest_of(run: Path) -> str | None:
    """Of the model that a run was on."""
    model = _spec(run).get("model")
    digest = model.get("digest") if isinstance(model, dict) else None
    return digest if isinstance(digest, str) else None


def stored_in(run: Path, task: str | None = None) -> ProfileFolder:
    """The profiles of a run, with the head scores of one task, or the mean over all."""
    scores = head_scores_of(run)
    if task is not None and task not in scores:
        raise SuiteError(f"{run} holds no head scores of task {task!r}; it has {', '.join(scores) or 'none'}")
    shapley = scores[task] if task is not None else mean_over_tasks(scores) if scores else None
    return ProfileFolder(run / "profiles", f"of the run {run.name}", shapley)


def _spec(run: Path) -> dict[str, JSON]:
    try:
        spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    except OSError:
        raise SuiteError(
            f"{run} is no run folder: it has no spec.json; expected one that `cokv reproduce` wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise SuiteError(
            f"{run / 'spec.json'} is damaged ({error}); name another run, or delete that file, then {REPRODUCE}"
        ) from None
    return spec if isinstance(spec, dict) else {}


def head_scores_of(run: Path) -> dict[str, HeadScores]:
    """Head scores by task."""
    return {file.stem: HeadScores.load(file) for file in sorted((run / "head_scores").glob("*.safetensors"))}


def mean_over_tasks(scores: Mapping[str, HeadScores]) -> HeadScores:
    """Mean over tasks, equally weighted. Model and game are those of the first: a run has one of each."""
    first = next(iter(scores.values())).provenance
    facts: dict[str, JSON] = {name: first[name] for name in ("model", "spec") if name in first}
    samples = np.stack([task_scores.values for task_scores in scores.values()])
    evidence: dict[str, JSON] = {"largest": float(samples.mean(axis=0).max())}
    if len(samples) > 1:  # with other tasks in place of these
        evidence["reliability"] = reliability(samples)
    return HeadScores(samples.mean(axis=0), {"kind": MEAN, "tasks": [*scores], "evidence": evidence, **facts})


def shipped(loaded: LoadedModel) -> ProfileFolder | None:
    """The profiles that ship with this model, by its name or its digest; None if none do."""
    folders = shipped_folders()
    model = loaded.name if loaded.name in folders else model_of_digest(loaded.digest)
    if model is None:
        return None
    file, title = folders[model] / SHAPLEY_FILE, f"the {model} model" if model == "embedded" else model
    return ProfileFolder(folders[model], f"shipped with {title}", HeadScores.load(file) if file.is_file() else None)
