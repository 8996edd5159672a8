"""Offline profiles of an experiment's methods, computed once per run and model, or read from files.

Shapley values come from the head game, per task (suite/heads). All others come per model, by the method's row in the
experiment and its parameters. They are computed before the samples and kept in the run folder, from which a resumed run
reads them. Where a profile cannot be computed on this model, its method is infeasible and the record says why. Prompts
are no test samples: needles have sample numbers of their own, LU-KV's are validation prompts.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cokv.game.identity import digest
from cokv.methods.method import Method
from cokv.methods.profile_rules import refusal
from cokv.methods.registry import get_method
from cokv.model.known import KNOWN
from cokv.model.loading import LoadedModel
from cokv.model.store import sha256_of
from cokv.profiles.load import Profile, load_profile, profile_path
from cokv.profiles.razor_scores import PERIODS, REPEATS
from cokv.profiles.shipped import profile_name, shipped_for
from cokv.types import JSON, CokvError, HeadScores, replace_file
from longbench.errors import LongBenchError
from ruler.errors import RulerError
from suite.errors import SuiteError
from suite.profiles.profilers import PROFILERS, settings_of
from suite.profiles.prompts import PASSKEYS, needle_spec
from suite.run.folder import RunFolder
from suite.run.progress import progress
from suite.spec import SHAPLEY, Experiment, ProfilesSpec
from suite.tasks.benchmarks import task_names

STORED_FOR = "stored_for"  # in a stored profile: the digest of the settings it was made for


@dataclass(frozen=True)
class Need:
    """One profile: its name (and file's stem), a method that uses it, the files it is read from, and its settings.

    shipped: the one file is a shipped profile's name.
    """

    name: str
    method: Method
    files: tuple[str, ...]
    settings: dict[str, JSON]
    shipped: bool = False


class NoProfile(CokvError):
    """A profile that cannot be made of this model, or is not to be trusted."""


@dataclass(frozen=True)
class Profiles:
    """The profiles of a run by name; a text says why a profile could not be computed.

    yielding: names of those that give way to a task's own head scores.
    """

    by_name: Mapping[str, Profile | str] = field(default_factory=dict)
    yielding: frozenset[str] = frozenset()

    def of(self, method: Method, shapley: HeadScores | None) -> Profile | None:
        """A method's profile. shapley: its task's head scores. Raises CokvError where it could not be computed."""
        if not method.needs_profile:
            return None
        name = profile_name(method)
        profile = None if shapley is not None and name in self.yielding else self.by_name.get(name)
        if isinstance(profile, str):
            raise NoProfile(f"{method.name}: no profile of this model: {profile}")
        profile = shapley if profile is None else profile
        if reason := refusal(profile, method.profile_kinds[0]):
            raise NoProfile(f"{method.name}: no valid profile: {reason}")
        return profile


def profile_content(method: Method, shapley: HeadScores | None, profiles: Profiles) -> JSON:
    """A checksum of the numbers that a method's profile holds, or why it has none; None where it needs none.

    How the numbers were measured is left out: it changes no answer.
    """
    try:
        profile = profiles.of(method, shapley)
    except NoProfile as error:
        return str(error)
    if profile is None:
        return None
    return [*profile.values.shape, hashlib.sha256(profile.values.tobytes()).hexdigest()]


def needed(experiment: Experiment) -> list[Need]:
    """The profiles that do not come from the head game, each once."""
    spec = experiment.profiles or ProfilesSpec()
    needs: dict[str, Need] = {}
    for entry in experiment.methods:
        method = get_method(entry.name, entry.preset, **entry.params)
        files, shipped = spec.files_of(method.name), False
        if not method.needs_profile:
            continue
        if not files and (name := _shipped(experiment.model.name, method, spec)):
            files, shipped = (name,), True
        if SHAPLEY in method.profile_kinds and not files:
            if experiment.game is None:  # the file relies on a profile that ships
                raise SuiteError(
                    f"{method.name} needs head scores, and none ship with model {experiment.model.name!r}; add a "
                    "[game] section, or name a file in [profiles]"
                )
            continue
        name = profile_name(method)
        settings = _checksums(files) if files else settings_of(experiment, spec, method)
        needs.setdefault(name, Need(name, method, files, settings, shipped))
    return list(needs.values())


def identity(experiment: Experiment) -> dict[str, JSON]:
    """All that can change a profile besides the model: settings of the computed ones, checksums of files."""
    return {need.name: need.settings for need in needed(experiment)}


def validation_prompts_per_task(experiment: Experiment) -> int:
    """How many the head game and the profilers use."""
    for_game = 0 if experiment.game is None else experiment.game.prompts
    for_profiles = (experiment.profiles or ProfilesSpec()).task_prompts
    return max(
        for_game, for_profiles if any(n.method.name == "lukv" and not n.files for n in needed(experiment)) else 0
    )


def compute_profiles(experiment: Experiment, loaded: LoadedModel, folder: RunFolder) -> Profiles:
    """Computes what is missing in the run folder's `profiles/`; returns all profiles."""
    profiles: dict[str, Profile | str] = {}
    needs, spec = needed(experiment), experiment.profiles or ProfilesSpec()
    if not needs:
        return Profiles()
    with progress("profiles", len(needs)) as report:
        for need in needs:
            profile = _stored(need, folder)
            if profile is None:
                if not need.files and spec.source == "shipped_or_computed":
                    print(f"no profile of {need.name} ships with this model; computing it", file=sys.stderr)
                profile = _read(need, loaded) if need.files else _computed(need, experiment, loaded)
                _store(folder.path / "profiles" / need.name, profile, need.settings)
            profiles[need.name] = profile
            report.advance(note=need.name)
    own_first = experiment.game is not None and experiment.game.tasks is not None
    yielding = (n.name for n in needs if SHAPLEY in n.method.profile_kinds and (n.shipped or own_first))
    return Profiles(profiles, frozenset(yielding))


@functools.cache
def _known_name(model: str) -> str:
    """The known model whose GGUF file this is the path of, or the name as it is."""
    file = Path(model).expanduser()
    if file.suffix != ".gguf" or not file.is_file():
        return model
    checksum = sha256_of(file)
    return next((known.name for known in KNOWN.values() if known.sha256 == checksum), model)


def _shipped(model: str, method: Method, spec: ProfilesSpec) -> str | None:
    """The name of the shipped profile that a method uses; None if its profile is to be computed."""
    if spec.source == "computed":
        return None
    try:
        return shipped_for(_known_name(model), method)
    except CokvError as error:
        if spec.source == "shipped_or_computed":
            return None
        raise SuiteError(
            f"[profiles] source is 'shipped', but {error}; leave `source` out, and profiles are computed, or name "
            f"a file of it as [profiles] {method.name}"
        ) from None


def _computed(need: Need, experiment: Experiment, loaded: LoadedModel) -> Profile | str:
    spec = experiment.profiles or ProfilesSpec()
    try:
        profile = PROFILERS[need.method.name](experiment, loaded, spec, need.method)
    except (CokvError, RulerError, LongBenchError) as error:
        return str(error)
    provenance = {**profile.provenance, "settings": need.settings, "model": loaded.identity()}
    return type(profile)(profile.values, provenance)


def _read(need: Need, loaded: LoadedModel) -> Profile | str:
    """The files of [profiles]. A file of another kind or shape is the user's to correct."""
    if need.shipped:
        return _read_shipped(need, loaded)
    profile = load_profile(need.files, (loaded.shape.num_layers, loaded.shape.num_kv_heads))
    kind = profile.provenance.get("kind")
    if not isinstance(kind, str) or not kind.startswith(need.method.profile_kinds):
        expected = " or ".join(need.method.profile_kinds)
        raise SuiteError(f"[profiles] {need.method.name}: {need.files[0]} is of kind {kind!r}, expected {expected}")
    return profile


def _read_shipped(need: Need, loaded: LoadedModel) -> Profile | str:
    """A shipped profile, or the reason that ships in its place."""
    file = profile_path(need.files[0])
    profile = read_stored(file.with_suffix(""))
    assert profile is not None, file
    model = None if isinstance(profile, str) else profile.provenance.get("model")
    if isinstance(model, dict) and model.get("digest") != loaded.digest:
        raise SuiteError(
            f"[profiles] {need.files[0]} was made on a model of digest {model.get('digest')}, this one has "
            f"{loaded.digest}; leave `source` out, so that profiles are computed"
        )
    return profile


def _checksums(files: tuple[str, ...]) -> dict[str, JSON]:
    digests: list[JSON] = []
    for file in files:
        try:
            digests.append(hashlib.sha256(profile_path(file).read_bytes()).hexdigest())
        except OSError as error:
            raise SuiteError(f"[profiles] {file} cannot be read ({error.strerror}); check the path") from None
    return {"sha256": digests}


def read_stored(stem: Path) -> Profile | str | None:
    """What is stored under this name: a profile, or why there is none; None: nothing."""
    reason_file, file = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.safetensors")
    if reason_file.exists():
        return str(_reason(reason_file)["unavailable"])
    if not file.exists():
        return None
    return load_profile(file)


def _reason(file: Path) -> dict[str, JSON]:
    """A file that says why there is no profile, and for which settings."""
    try:
        reason = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(reason, dict) or "unavailable" not in reason:
            raise ValueError("expected an object with 'unavailable'")
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{file} is damaged ({error}); delete that file and run again") from None
    return reason


def _stored(need: Need, folder: RunFolder) -> Profile | str | None:
    """What an earlier start of this run has stored for these settings. A profile of other settings is put aside."""
    stem = folder.path / "profiles" / need.name
    for suffix in (".json", ".safetensors"):
        file = stem.with_name(f"{need.name}{suffix}")
        stored = str(_facts(file).get(STORED_FOR)) if file.exists() else None
        folder.put_aside(f"profiles/{file.name}", stored, digest(need.settings))
        if file.exists():
            _facts(file)  # raises for a damaged one that was brought back
    return read_stored(stem)


def _facts(file: Path) -> Mapping[str, JSON]:
    """What a stored profile says of itself, or the file that says why there is none."""
    try:
        return _reason(file) if file.suffix == ".json" else load_profile(file).provenance
    except CokvError as error:
        raise SuiteError(f"{error}; delete that file and run again") from None


def _store(stem: Path, profile: Profile | str, settings: dict[str, JSON]) -> None:
    if not isinstance(profile, str):
        facts = {**profile.provenance, STORED_FOR: digest(settings)}
        type(profile)(profile.values, facts).save(stem.with_name(f"{stem.name}.safetensors"))
        return
    stem.parent.mkdir(exist_ok=True)
    part = stem.with_name(f".{stem.name}.part")
    part.write_text(
        json.dumps({"unavailable": profile, STORED_FOR: digest(settings)}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    replace_file(part, stem.with_name(f"{stem.name}.json"))


def workload(experiment: Experiment, length: int, new_tokens: int) -> tuple[int, int, int, int]:
    """Prompts, rows, tokens read and at most tokens decoded, for a plan. A training step counts as four readings.

    length, new_tokens: of the longest task.
    """
    spec = experiment.profiles or ProfilesSpec()
    prompts = rows = tokens_read = tokens_decoded = 0
    for need in (need for need in needed(experiment) if not need.files):
        name = need.method.name
        if name == "razorattention":
            periods = PERIODS if spec.period is None else (spec.period,)
            prompts, tokens_read = prompts + len(periods) + 2, tokens_read + REPEATS * (sum(periods) + 2 * periods[0])
        elif name == "duoattention":
            of_length = needle_spec(experiment, PASSKEYS, spec.passkey_length).length
            prompts, tokens_read = prompts + spec.steps, tokens_read + 4 * spec.steps * of_length
        else:
            needles = needle_spec(experiment)
            seq_len, num_prompts = needles.length, spec.prompts * len(needles.tasks)
            if name == "lukv":
                seq_len, num_prompts = length, spec.task_prompts * len(task_names(experiment))
            prompts, rows = prompts + num_prompts, rows + num_prompts
            tokens_read += 2 * num_prompts * seq_len
            tokens_decoded += num_prompts * new_tokens
    return prompts, rows, tokens_read, tokens_decoded
