"""Reads an experiment from a TOML file. Errors name the file, the key, and what was expected."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from suite.errors import SuiteError
from suite.spec.experiment import Experiment
from suite.spec.methods import check_defaults, with_defaults
from suite.spec.part import nearest
from suite.text_files import read_text


def read_experiment(path: Path, limit: int | None = None) -> Experiment:
    """Reads and checks an experiment file. `limit` bounds the samples per task and seed, and is hashed with them.

    A file may begin with `extends = "NAME"`, the stem of a file beside it: its keys then come on top of that file's,
    section by section, and `false` in place of a section leaves it out.
    """
    raw = _read_toml(path)
    if (base := raw.pop("extends", None)) is not None:
        raw = _extended(path, base, raw)
    defaults = raw.pop("method_defaults", {})
    if isinstance(raw.get("methods"), list):
        check_defaults(path, defaults)
        raw["methods"] = [with_defaults(m, defaults) for m in raw["methods"]]
    if limit is not None and limit < 1:
        raise SuiteError(f"--limit is {limit}, expected at least 1 sample")
    for benchmark in ("ruler", "longbench", "longbench_mini", "needle"):
        if limit is not None and isinstance(raw.get(benchmark), dict):
            samples = raw[benchmark].get("samples", limit)
            raw[benchmark]["samples"] = min(limit, samples) if isinstance(samples, int) else samples
    try:
        return Experiment.model_validate_json(json.dumps(raw))
    except TypeError:
        raise SuiteError(f"{path}: a value is a date or a time, which no key takes; put text in quotes") from None
    except ValidationError as error:
        raise SuiteError(f"{path}: {_first(error)}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except FileNotFoundError:
        raise SuiteError(f"no experiment file {path}; see the experiments/ folder, or check the path") from None
    except IsADirectoryError:
        raise SuiteError(f"{path} is a folder; name an experiment file, such as experiments/embedded.toml") from None
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise SuiteError(f"{path} is nested too deeply; see experiments/embedded.toml for the keys there are") from None


def _extended(path: Path, base: Any, raw: dict[str, Any]) -> dict[str, Any]:
    """The keys of the file `base` beside `path`, with those of `raw` on top."""
    if not isinstance(base, str) or "/" in base or "\\" in base:
        raise SuiteError(f"{path}: key `extends`: got {base!r}, expected the name of a file beside it, without .toml")
    below = _read_toml(path.with_name(f"{base}.toml"))
    if "extends" in below:
        raise SuiteError(f"{path}: it extends {base}.toml, which extends another file itself; extend that one")
    merged = dict(below)
    for key, value in raw.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = {**below[key], **value} if both else value
    return {key: value for key, value in merged.items() if value is not False}


def with_game(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with some keys of its [game] section changed; None leaves a key unchanged."""
    if experiment.game is None:
        raise SuiteError(f"experiment {experiment.name!r} has no [game] section, which says how the game is played")
    return experiment.model_copy(update={"game": _changed(experiment.game, changes, "the game")})


def with_model(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with some keys of its [model] section changed; None leaves a key unchanged.

    Another name drops the revision and the positions, which are of the other model.
    """
    section = experiment.model
    if changes.get("name") is not None:
        changes = {**changes, "revision": changes.get("revision") or ""}
        section = section.model_copy(update={"positions": None})
    model = _changed(section, changes, "the model")
    return experiment.model_copy(update={"model": model.model_copy(update={"revision": model.revision or None})})


def with_tasks(experiment: Experiment, tasks: Sequence[str]) -> Experiment:
    """The experiment on some of its tasks. Games and checks of tasks that are left out are left out with them."""
    if not tasks:
        return experiment
    sections = ("ruler", "longbench", "longbench_mini", "needle")
    parts = {name: part for name in sections if (part := getattr(experiment, name)) is not None}
    known = [task for part in parts.values() for task in part.tasks]
    for task in tasks:
        if task not in known:
            raise SuiteError(f"task {task!r} is not in experiment {experiment.name!r}; {nearest(task, known)}")
    changes: dict[str, Any] = {}
    for name, part in parts.items():
        chosen = tuple(task for task in part.tasks if task in tasks)
        changes[name] = part.model_copy(update={"tasks": chosen}) if chosen else None
    game, checks = experiment.game, experiment.checks
    if game is not None and game.tasks is not None:
        chosen = tuple(task for task in game.tasks if task in tasks)
        changes["game"] = game.model_copy(update={"tasks": chosen}) if chosen else None
    if checks is not None:
        for key in ("tasks", "game_tasks"):
            if (named := getattr(checks, key)) is not None:
                chosen = tuple(task for task in named if task in tasks)
                checks = checks.model_copy(update={key: chosen}) if chosen and checks is not None else None
            if checks is None:
                break
        changes["checks"] = checks if changes.get("game", game) is not None else None
    values = {**experiment.model_dump(mode="json"), **{k: v and v.model_dump(mode="json") for k, v in changes.items()}}
    try:
        return Experiment.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise SuiteError(f"experiment {experiment.name!r} on {', '.join(tasks)}: {_first(error)}") from None


def _changed(section: Any, changes: dict[str, Any], title: str) -> Any:
    """A section with some keys changed, checked as a file's is."""
    values = {**section.model_dump(), **{key: value for key, value in changes.items() if value is not None}}
    try:
        return type(section).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or title
        got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
        raise SuiteError(f"{key}: {first['msg'].removeprefix('Value error, ')}{got}") from None


def _first(error: ValidationError) -> str:
    """The first error, as `key: message`, with the nearest known key for an unknown one.

    A missing key may be misspelled in the file: then the unknown key is reported.
    """
    errors = error.errors()
    first = errors[0]
    if first["type"] == "missing":
        first = next((entry for entry in errors if entry["type"] == "extra_forbidden"), first)
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        return f"unknown key `{key}`; {nearest(str(first['loc'][-1]), _fields(first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"key `{key}` is missing; it has no default"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"key `{key}`: {message}{got}"


def _fields(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Experiment
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation), *(a for g in get_args(annotation) for a in get_args(g))]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)
