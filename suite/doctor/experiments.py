"""Which of the shipped experiments this machine can run, and what each lacks. Loads no model and fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.doctor.check import Check, Finding, State
from suite.doctor.hardware import GB
from suite.doctor.software import has_extra

if TYPE_CHECKING:
    from suite.run.requirements import Missing
    from suite.spec import Experiment

FROM_HUB = "hf download"  # remedies that begin so are what a run does by itself where the hub answers


@dataclass(frozen=True)
class Need:
    """Something that an experiment lacks here. blocks: the run would refuse; else it gets it by itself."""

    what: str
    remedy: str
    blocks: bool = True


@dataclass(frozen=True)
class Machine:
    """What experiments are fitted to. memory: bytes available, None if not known; hub: whether it answers, token:
    whether there is one.
    """

    memory: int | None
    hub: bool
    token: bool


def check(name: str, file: Path, machine: Machine) -> Check:
    return Check("experiments", name, lambda: fit(file, machine))


def fit(file: Path, machine: Machine) -> Finding:
    """What an experiment lacks on this machine. facts: `fits`, whether it would run; its model; and each need."""
    from suite.errors import SuiteError
    from suite.run.requirements import requirements
    from suite.spec import read_experiment

    try:
        experiment = read_experiment(file)
    except SuiteError as error:
        return _finding([Need(" ".join(str(error).split()), f"correct {file.name}")], {}, "")
    required = requirements(experiment)
    needs = [_need(missing, experiment, machine) for missing in required.missing]
    needs += [*_reader(experiment), *_memory(experiment, required.weights_bytes, machine), *_profiles(experiment)]
    facts = {
        "model": experiment.model.name,
        "device": experiment.model.device,
        "weights_bytes": required.weights_bytes,
        "peak_bytes": required.peak_bytes,
        **_hours(experiment),
    }
    return _finding(needs, facts, _about(facts))


def _about(facts: dict[str, Any]) -> str:
    weights, hours = facts["weights_bytes"], facts.get("hours")
    size = "" if weights is None else f", {weights / GB:.2g} GB of weights"
    time = "" if hours is None else f", about {hours:.0f} hours on {facts['hardware']}"
    return f"{facts['model']}{size} on {facts['device']}{time}"


def _finding(needs: list[Need], facts: dict[str, Any], about: str) -> Finding:
    fits = not any(need.blocks for need in needs)
    facts = {**facts, "fits": fits, "needs": [asdict(need) for need in needs]}
    blocking = "; ".join(need.what for need in needs if need.blocks)
    fetched = "; ".join(need.what for need in needs if not need.blocks)
    parts = [about, f"needs {blocking}" if blocking else "", f"fetches {fetched}" if fetched else ""]
    remedies = "\n".join(dict.fromkeys(need.remedy for need in needs))
    return Finding(State.OK if fits else State.ABSENT, ". ".join(filter(None, parts)), remedies, facts)


def _need(missing: Missing, experiment: Experiment, machine: Machine) -> Need:
    """A known model and the hub's files are fetched by the run, where they can be."""
    from cokv.model.known import KNOWN
    from suite.known.models import hub_models

    if missing.kind == "weights" and experiment.model.name in KNOWN:
        size = f", {KNOWN[experiment.model.name].size / 1e6:.0f} MB"
        return Need(missing.what + size, missing.remedy, blocks=False)
    known = hub_models().get(experiment.model.name)
    locked = missing.kind == "weights" and known is not None and known.gated and not machine.token
    comes = missing.kind in ("weights", "data") and missing.remedy.startswith(FROM_HUB) and machine.hub and not locked
    return Need(missing.what, missing.remedy, blocks=not comes)


def _reader(experiment: Experiment) -> Iterator[Need]:
    """The extra that reads GGUF files, for a known model that is not converted yet, or a file."""
    from cokv.model.known import KNOWN
    from cokv.model.store import is_converted

    name = experiment.model.name
    unread = not is_converted(KNOWN[name].sha256) if name in KNOWN else Path(name).suffix.lower() == ".gguf"
    if unread and not has_extra("gguf"):
        yield Need("the extra gguf, to read its weights", "python -m pip install 'cokv[gguf]'")


def _memory(experiment: Experiment, weights: int | None, machine: Machine) -> Iterator[Need]:
    """Room beside what else runs now: weights, and what a process takes for everything else."""
    from suite.run.workers import ALLOWANCE

    if experiment.model.device == "cpu" and weights is not None and machine.memory is not None:
        needed = weights + ALLOWANCE
        if needed > machine.memory:
            what = f"{needed / GB:.1f} GB of memory, {machine.memory / GB:.1f} GB are available"
            yield Need(what, "end other programs, or name a smaller --model")


def _profiles(experiment: Experiment) -> Iterator[Need]:
    from suite.spec.profiles import FILES

    for method in FILES if experiment.profiles is not None else ():
        assert experiment.profiles is not None
        for path in experiment.profiles.files_of(method):
            if not Path(path).expanduser().exists():
                yield Need(f"[profiles] {method}: nothing at {path}", "put it there, or name another path")


def _hours(experiment: Experiment) -> dict[str, Any]:
    """Of experiments on models whose cost is known by their shape; others are timed by a trial (--dry-run)."""
    from suite.known.models import hub_models
    from suite.run.estimate import estimate, rates_of

    if experiment.model.name not in hub_models():
        return {}
    seconds = sum(stage.seconds for stage in estimate(experiment))
    return {"hours": seconds / 3600, "hardware": rates_of(experiment).gpu.title}
