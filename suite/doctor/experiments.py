"""Which of the shipped experiments this machine can run, and what each lacks. Loads no model and fetches nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.doctor.check import Check, Finding, State
from suite.doctor.hardware import GB
from suite.doctor.software import has_extra

IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z0-9])")  # Llama-3-8B: parameters
SMALLER = "a smaller --model"


@dataclass(frozen=True)
class Need:
    """Something that an experiment lacks here. blocks: the run would refuse; else it gets it by itself."""

    what: str
    remedy: str
    blocks: bool = True


@dataclass(frozen=True)
class Machine:
    """What experiments are fitted to. Bytes; None: not known. hub: whether it answers."""

    memory: int | None
    gpus: tuple[int, ...]
    hub: bool


def check(name: str, file: Path, machine: Machine) -> Check:
    return Check("experiments", name, lambda: fit(file, machine))


def fit(file: Path, machine: Machine) -> Finding:
    """What an experiment lacks on this machine. facts: `fits`, whether it would run; its model; and each need."""
    from suite.errors import SuiteError
    from suite.spec import read_experiment

    try:
        experiment = read_experiment(file)
    except SuiteError as error:
        return _finding([Need(_line(error), f"correct {file.name}")], {})
    model = experiment.model
    weights, estimated = weights_of(model.name, model.revision, model.dtype)
    needs = [
        *_model(model, weights, estimated, machine),
        *_memory(model.device, weights, estimated, machine),
        *_data(experiment, machine),
    ]
    facts = {
        "model": model.name,
        "device": model.device,
        "weights_bytes": weights,
        "weights_estimated": estimated,
        "description": experiment.description,
    }
    return _finding(needs, facts)


def _finding(needs: list[Need], facts: dict[str, Any]) -> Finding:
    fits = not any(need.blocks for need in needs)
    listed = [{"what": need.what, "remedy": need.remedy, "blocks": need.blocks} for need in needs]
    facts = {**facts, "fits": fits, "needs": listed}
    size = "" if facts.get("weights_bytes") is None else f", {facts['weights_bytes'] / GB:.2g} GB of weights"
    about = f"{facts['model']}{size} on {facts['device']}" if "model" in facts else ""
    if not needs:
        return Finding(State.OK, about, facts=facts)
    parts = [
        f"{verb} {'; '.join(need.what for need in needs if need.blocks is blocks)}"
        for verb, blocks in (("needs", True), ("fetches", False))
        if any(need.blocks is blocks for need in needs)
    ]
    detail = f"{about}: {'; '.join(parts)}" if about else "; ".join(need.what for need in needs)
    remedies = "\n".join(dict.fromkeys(need.remedy for need in needs))
    return Finding(State.OK if fits else State.ABSENT, detail, remedies, facts)


def weights_of(name: str, revision: str | None, dtype: str) -> tuple[int | None, bool]:
    """Bytes of a model's weights in a dtype, and whether that is an estimate: its files are not here, so it is by what
    is known of the model (suite/known), or by its name (7B, 135M)."""
    from cokv.model.weights import BYTES, weights_bytes
    from suite.known.models import hub_models

    here = weights_bytes(name, revision, dtype)
    if here is not None:
        return here, False
    if (known := hub_models().get(name)) is not None:
        return known.parameters * BYTES[dtype], True
    stated = IN_NAME.search(name.rpartition("/")[2])
    if stated is None:
        return None, False
    return int(float(stated[1]) * (1e9 if stated[2] in "Bb" else 1e6)) * BYTES[dtype], True


def _model(model: Any, weights: int | None, estimated: bool, machine: Machine) -> Iterator[Need]:
    from cokv.model.known import KNOWN
    from cokv.model.store import is_converted
    from cokv.model.weights import EMBEDDED

    path = Path(model.name).expanduser()
    if model.name == EMBEDDED or path.is_dir():
        return
    if model.name in KNOWN:
        known = KNOWN[model.name]
        if is_converted(known.sha256):
            return
        if not has_extra("gguf"):
            yield Need(f"reading {known.file} needs the extra gguf", "python -m pip install 'cokv[gguf]'")
        yield Need(f"{known.size / 1e6:.0f} MB of weights", f"cokv model fetch {known.name}", blocks=False)
    elif path.suffix.lower() == ".gguf":
        if not path.is_file():
            yield Need(f"no file {path}", "correct [model] name, or name another by --model")
        elif not has_extra("gguf"):
            yield Need("a .gguf file needs the extra gguf", "python -m pip install 'cokv[gguf]'")
    elif model.revision is None:
        yield Need(f"{model.name} has no pinned revision and is no folder", "add `revision` to [model]")
    elif weights is None or estimated:  # its files are not on this machine
        size = "its weights" if weights is None else f"about {weights / GB:.0f} GB of weights"
        remedy = f"hf download {model.name} --revision {model.revision}"
        yield Need(f"{size} from the hub", remedy, blocks=not machine.hub)


def _memory(device: str, weights: int | None, estimated: bool, machine: Machine) -> Iterator[Need]:
    """Weights and room for everything else: in the memory of the GPU, or of the machine."""
    from suite.run.workers import ALLOWANCE

    about = "about " if estimated else ""
    if device.startswith("cuda"):
        if not machine.gpus:
            size = "" if weights is None else f" with {about}{(weights + ALLOWANCE) / GB:.0f} GB"
            yield Need(f"a CUDA device{size}", f"a machine with one; or --device cpu with {SMALLER}")
            return
        room, where = max(machine.gpus), "of GPU memory"
    elif machine.memory is None:
        return
    else:
        room, where = machine.memory, "of memory"
    if weights is not None and weights + ALLOWANCE > room:
        what = f"{about}{(weights + ALLOWANCE) / GB:.1f} GB {where}, {room / GB:.1f} GB are free"
        yield Need(what, f"free memory, or {SMALLER}, or --device cuda on a larger GPU")


def _data(experiment: Any, machine: Machine) -> Iterator[Need]:
    from suite.spec.profiles import FILES

    ruler, longbench = experiment.ruler, experiment.longbench
    if ruler is not None:
        if ruler.essays is not None:
            yield from _refused(_essays, ruler.essays)
        yield from _files(ruler.questions.values(), "[ruler] questions")
        yield from _source(ruler.data, "[ruler] data")
    if experiment.needle is not None:
        yield from _refused(_essays, experiment.needle.essays)
    if longbench is not None:
        yield from _refused(_templates, longbench)
        if longbench.data is not None:
            yield from _source(longbench.data, "[longbench] data")
        elif not _longbench_in_cache():
            yield Need("LongBench's official files, from the hub", "cokv reproduce fetches them", not machine.hub)
    profiles = experiment.profiles
    for name in FILES if profiles is not None else ():
        yield from _files(profiles.files_of(name), f"[profiles] {name}")


def _source(data: str | None, key: str) -> Iterator[Need]:
    if data is None:
        return
    if data.startswith("hub:"):
        yield Need(f"{key}: {data} or its cached copy", "cokv reproduce fetches it", blocks=False)
        return
    yield from _files((data,), key)


def _longbench_in_cache() -> bool:
    from huggingface_hub import try_to_load_from_cache

    from longbench.sources import HUB_REPO, HUB_REVISION

    return isinstance(try_to_load_from_cache(HUB_REPO, "data.zip", revision=HUB_REVISION, repo_type="dataset"), str)


def _files(paths: Any, key: str) -> Iterator[Need]:
    for path in paths:
        if not os.path.exists(os.path.expanduser(path)):
            yield Need(f"{key}: nothing at {path}", "put it there, or name another path")


def _essays(source: str) -> None:
    from ruler.essays import essay_files

    essay_files(source)


def _templates(spec: Any) -> None:
    from longbench.templates import files_for, read_templates

    read_templates(spec.templates, files_for(spec.tasks))


def _refused(read: Any, what: Any) -> Iterator[Need]:
    """The refusal of what reads this, with its own remedy: errors end in one, after a semicolon or colon."""
    from suite.errors import USER_ERRORS

    try:
        read(what)
    except USER_ERRORS as error:
        message = _line(error)
        got, fetch, command = message.partition("fetch them with: ")
        if not fetch:
            got, _, command = message.partition("; ")
        yield Need(got.rstrip(" ;,"), command or "correct it")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
