"""Benchmarks behind one shape: an experiment's tasks, their test prompts, and validation prompts apart from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cokv.model.loading import LoadedModel
from suite.spec import Experiment, LongBenchMiniSpec, LongBenchSpec, NeedleSpec, RulerSpec
from suite.tasks import longbench_mini_tasks, longbench_tasks, needle_tasks, ruler_tasks
from suite.tasks.prompt import Prompt

UNLIMITED = 1 << 30  # validation prompts of tasks that are generated


def task_names(experiment: Experiment) -> tuple[str, ...]:
    """RULER's tasks, then LongBench's, then needles."""
    return tuple(task for part in experiment.benchmarks for task in part.tasks)


def shared_identity(experiment: Experiment) -> dict[str, Any]:
    """What determines the samples of each benchmark, and is the same for all of its tasks."""
    shared: dict[str, Any] = {}
    if experiment.ruler is not None:
        shared["ruler"] = ruler_tasks.shared_identity(experiment.ruler)
    if experiment.longbench is not None:
        shared["longbench"] = longbench_tasks.shared_identity(experiment.longbench)
    if experiment.longbench_mini is not None:
        shared["longbench_mini"] = longbench_mini_tasks.shared_identity(experiment.longbench_mini)
    if experiment.needle is not None:
        shared["needle"] = needle_tasks.shared_identity(experiment.needle)
    return shared


def task_identity(experiment: Experiment, task: str) -> dict[str, Any]:
    """What determines one task's samples beside that."""
    part = _part(experiment, task)
    if isinstance(part, RulerSpec):
        return ruler_tasks.task_identity(part, task)
    return longbench_tasks.task_identity(part, task) if isinstance(part, LongBenchSpec) else {}


def seeds_of(experiment: Experiment, task: str) -> tuple[int, ...]:
    """Generated tasks have samples for every seed; recorded ones have one set, under the first."""
    part = _part(experiment, task)
    recorded = isinstance(part, LongBenchSpec | NeedleSpec) or (isinstance(part, RulerSpec) and part.data is not None)
    return experiment.seeds[:1] if recorded else experiment.seeds


def test_count(experiment: Experiment, task: str) -> int:
    """Test samples of one task and seed."""
    part = _part(experiment, task)
    if isinstance(part, NeedleSpec):
        return needle_tasks.test_count(part)
    return longbench_tasks.test_count(part, task) if isinstance(part, LongBenchSpec) else part.samples


def validation_count(experiment: Experiment, task: str) -> int:
    """Validation prompts that there are of one task; of generated tasks as many as are asked for."""
    part = _part(experiment, task)
    return longbench_tasks.validation_count(part, task) if isinstance(part, LongBenchSpec) else UNLIMITED


def test_prompts(experiment: Experiment, loaded: LoadedModel, task: str, seed: int) -> Iterator[Prompt]:
    return _prompts(experiment, loaded, task, test_count(experiment, task), seed, validation=False)


def validation_prompts(experiment: Experiment, loaded: LoadedModel, task: str, count: int) -> Iterator[Prompt]:
    """Prompts for the head game."""
    return _prompts(experiment, loaded, task, count, experiment.seeds[0], validation=True)


def _prompts(
    experiment: Experiment, loaded: LoadedModel, task: str, count: int, seed: int, validation: bool
) -> Iterator[Prompt]:
    part, aware = _part(experiment, task), experiment.protocol.query_aware
    if isinstance(part, LongBenchSpec):
        return longbench_tasks.prompts(part, loaded, task, "validation" if validation else "test", count, seed)
    if isinstance(part, RulerSpec):
        return ruler_tasks.prompts(part, loaded, task, count, seed, aware, validation)
    if isinstance(part, NeedleSpec):
        return needle_tasks.prompts(part, loaded, task, count, aware, validation)
    return longbench_mini_tasks.prompts(part, loaded, task, count, seed, aware, validation)


def _part(experiment: Experiment, task: str) -> RulerSpec | LongBenchSpec | LongBenchMiniSpec | NeedleSpec:
    """The section that names this task."""
    return next(part for part in experiment.benchmarks if task in part.tasks)
