"""Profiles that are there already: in the folder of a run, and shipped for the embedded model.

Shapley values come per task. For a prompt of no known task their mean over tasks stands in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cokv.methods.method import Method
from cokv.model.loading import EMBEDDED, LoadedModel
from cokv.profiles.load import SHIPPED, Profile
from cokv.types import JSON, HeadScores
from suite.errors import SuiteError
from suite.profiles.run_profiles import kept_profile, profile_name
from suite.spec import SHAPLEY

MEAN = f"{SHAPLEY}, mean over tasks"
SHAPLEY_FILE = "cokv.safetensors"  # of the shipped profiles


@dataclass(frozen=True)
class SourcedProfile:
    """A profile, and in words where it comes from."""

    profile: Profile
    origin: str


@dataclass(frozen=True)
class ProfileFolder:
    """A folder of profiles by name, and the head scores that stand for those per task. origin: whose, in words."""

    folder: Path
    origin: str
    shapley: HeadScores | None

    def of(self, method: Method, digest: str) -> SourcedProfile | str:
        """What a method is to be given on the model of this digest, or why there is nothing."""
        found: Profile | str | None = kept_profile(self.folder / profile_name(method))
        if found is None and SHAPLEY in method.profile_kinds:
            found = self.shapley
        if found is None:
            return f"needs {method.profile}, and there are none {self.origin}; give them with --profile FILE"
        if isinstance(found, str):
            return f"needs {method.profile}, and there are none {self.origin}: {found}"
        made_on = found.provenance.get("model")
        if isinstance(made_on, dict) and made_on.get("digest") != digest:
            return (
                f"needs {method.profile}, and those {self.origin} were made on another model; give them with "
                "--profile FILE"
            )
        return SourcedProfile(found, self.origin + _of_task(found) + _made_for(found, method))


def _of_task(profile: Profile) -> str:
    """Which task's, or how many tasks' mean."""
    task, tasks = (profile.provenance.get(name) for name in ("task", "tasks"))
    if profile.provenance.get("kind") == MEAN and isinstance(tasks, list):
        return f", mean over {len(tasks)} task{'s' * (len(tasks) != 1)}"
    return f", task {task}" if isinstance(task, str) else ""


def _made_for(profile: Profile, method: Method) -> str:
    """Parameters of the method that were others when the profile was made."""
    settings = profile.provenance.get("settings")
    if not isinstance(settings, dict):
        return ""
    made = settings.get("parameters")
    if not isinstance(made, dict):
        made = {"num_sinks": settings.get("sinks"), "local": settings.get("recent")}
    now = method.parameters
    others = [f"{name}={value}" for name, value in made.items() if value is not None and now.get(name, value) != value]
    return f", made for {', '.join(others)}" if others else ""


def of_run(run: Path, task: str | None, loaded: LoadedModel) -> ProfileFolder:
    """The profiles of a run on this model, with the head scores of one task, or else of all."""
    model = _spec(run).get("model")
    digest = model.get("digest") if isinstance(model, dict) else None
    if digest != loaded.digest:
        raise SuiteError(
            f"{run} was run on a model of digest {digest}, this one has {loaded.digest}; name a run of the same model"
        )
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
    except ValueError as error:
        raise SuiteError(f"{run / 'spec.json'} is damaged ({error}); name another run") from None
    return spec if isinstance(spec, dict) else {}


def head_scores_of(run: Path) -> dict[str, HeadScores]:
    """By task."""
    return {file.stem: HeadScores.load(file) for file in sorted((run / "head_scores").glob("*.safetensors"))}


def mean_over_tasks(scores: Mapping[str, HeadScores]) -> HeadScores:
    """Every task counts the same. Model and game are those of the first: a run has one of each."""
    first = next(iter(scores.values())).provenance
    told: dict[str, JSON] = {name: first[name] for name in ("model", "spec") if name in first}
    values = np.mean([one.values for one in scores.values()], axis=0)
    return HeadScores(values, {"kind": MEAN, "tasks": [*scores], **told})


def shipped(loaded: LoadedModel) -> ProfileFolder | None:
    """What ships with the package for the embedded model; nothing for any other."""
    if loaded.name != EMBEDDED:
        return None
    file = SHIPPED / SHAPLEY_FILE
    return ProfileFolder(SHIPPED, "shipped with the embedded model", HeadScores.load(file) if file.is_file() else None)
