"""Benchmarks behind one shape: an experiment's tasks, their test prompts, and validation prompts apart from them."""

from __future__ import annotations

from collections.abc import Iterator

from cokv.model import LoadedModel
from suite import longbench_tasks, ruler_tasks
from suite.prompt import Prompt
from suite.spec import Experiment


def task_names(experiment: Experiment) -> tuple[str, ...]:
    """RULER's tasks, then LongBench's."""
    ruler = experiment.ruler.tasks if experiment.ruler else ()
    return ruler + (experiment.longbench.tasks if experiment.longbench else ())


def seeds_of(experiment: Experiment, task: str) -> tuple[int, ...]:
    """Generated tasks have samples for every seed; recorded ones have one set, under the first."""
    return experiment.seeds if _is_ruler(experiment, task) else experiment.seeds[:1]


def test_count(experiment: Experiment, task: str) -> int:
    """Test samples of one task and seed."""
    if _is_ruler(experiment, task):
        assert experiment.ruler is not None
        return experiment.ruler.samples
    assert experiment.longbench is not None
    return longbench_tasks.test_count(experiment.longbench, task)


def test_prompts(experiment: Experiment, loaded: LoadedModel, task: str, seed: int) -> Iterator[Prompt]:
    if _is_ruler(experiment, task):
        spec = experiment.ruler
        assert spec is not None
        aware = experiment.protocol.query_aware
        yield from ruler_tasks.prompts(spec, loaded, task, spec.samples, seed, aware, validation=False)
    else:
        assert experiment.longbench is not None
        count = longbench_tasks.test_count(experiment.longbench, task)
        yield from longbench_tasks.prompts(experiment.longbench, loaded, task, "test", count, seed)


def validation_prompts(experiment: Experiment, loaded: LoadedModel, task: str, count: int) -> Iterator[Prompt]:
    """Prompts for the head game."""
    seed = experiment.seeds[0]
    if _is_ruler(experiment, task):
        assert experiment.ruler is not None
        aware = experiment.protocol.query_aware
        yield from ruler_tasks.prompts(experiment.ruler, loaded, task, count, seed, aware, validation=True)
    else:
        assert experiment.longbench is not None
        yield from longbench_tasks.prompts(experiment.longbench, loaded, task, "validation", count, seed)


def _is_ruler(experiment: Experiment, task: str) -> bool:
    return experiment.ruler is not None and task in experiment.ruler.tasks
