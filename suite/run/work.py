"""What a run's stages have to do, counted: prompts read, rows decoded, and tokens of both. No seconds, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cokv.methods.method import prefill_requirements
from cokv.methods.registry import get_method
from cokv.model.shape import Shape
from suite.checks.workload import TaskWork
from suite.heads.halves import evaluations
from suite.profiles import run_profiles as profiles_run
from suite.run.cells import grid_cells
from suite.spec import Experiment

REMOVAL_ROWS = 6  # of suite.heads.removal: all heads, without the top, without the bottom, three draws


class Task(Protocol):
    """A task's size: samples over all seeds, tokens of a prompt and, at most, of an answer, validation prompts."""

    @property
    def name(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def new_tokens(self) -> int: ...
    @property
    def validation(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """One task's share of a stage. rows: answers decoded; coalitions: of games, on one prompt each."""

    task: Task
    prompts: int
    rows: int = 0
    coalitions: int = 0


@dataclass(frozen=True)
class Work:
    """One stage. Decode tokens are an upper bound: answers may end early. parts: by task; none where a stage's work is
    not of the tasks' own prompts."""

    name: str
    prompts: int
    rows: int
    prefill_tokens: int
    decode_tokens: int
    parts: tuple[Part, ...] = ()


def _of(name: str, parts: Sequence[Part]) -> Work:
    return Work(
        name,
        sum(part.prompts for part in parts),
        sum(part.rows + part.coalitions for part in parts),
        sum(part.prompts * part.task.length for part in parts),
        sum((part.rows + part.coalitions) * part.task.new_tokens for part in parts),
        tuple(parts),
    )


def work_of(
    experiment: Experiment, shape: Shape, tasks: Sequence[Task], checks: Mapping[str, TaskWork] | None
) -> list[Work]:
    """The stages of a run that begins from nothing. checks: of suite.checks.workload, where there are checks."""
    by_name = {task.name: task for task in tasks}
    stages = []
    if (spec := experiment.game) is not None:
        coalitions = evaluations(spec, shape.num_layers * shape.num_kv_heads)
        parts = []
        for task in (by_name[name] for name in spec.tasks or by_name):
            prompts, removal = min(spec.prompts, task.validation), min(spec.removal_samples, task.samples)
            parts.append(Part(task, prompts + removal, coalitions=prompts * coalitions + removal * REMOVAL_ROWS))
        stages.append(_of("head game", parts))
    prompts, rows, read, decoded = profiles_run.workload(
        experiment, max(task.length for task in tasks), max(task.new_tokens for task in tasks)
    )
    if prompts:
        stages.append(Work("profiles", prompts, rows, read, decoded))
    grid = len(grid_cells(experiment))
    stages.append(_of("samples", [Part(task, task.samples, rows=task.samples * grid) for task in tasks]))
    if experiment.measure is not None:
        stages.append(_measure(experiment))
    if checks is not None:
        parts = [
            Part(by_name[name], w.game_prompts + w.samples, rows=w.answer_rows, coalitions=w.game_rows)
            for name, w in checks.items()
        ]
        stages.append(_of("checks", parts))
    return stages


def _measure(experiment: Experiment) -> Work:
    """Every arm alone. DynamicCache is filled each time, other caches once for each kind of prefill."""
    measure = experiment.measure
    assert measure is not None
    methods = [get_method(m.name, m.preset, **m.params) for m in experiment.methods]
    needs = {(window, tuple(observers)) for window, observers in (prefill_requirements([m]) for m in methods)}
    repeats, arms = measure.repeats + 1, len(methods) + 1
    steps = arms * repeats * measure.new_tokens
    return Work("latency and memory", 1, arms, (1 + len(needs) + 1) * repeats * measure.prompt_tokens, steps)
