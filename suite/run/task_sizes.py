"""How large an experiment's tasks are: prompts and tokens, from its file and what is known of the data sets.

No data and no model are read; where the data differ from the published files, the run's own counts differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from longbench.mini.generate import wording
from longbench.split import validation_count
from longbench.subset import mini_samples
from longbench.tasks import get_task as longbench_task
from longbench.tasks import official_count
from ruler.tasks import get_task as ruler_task
from suite.errors import SuiteError
from suite.known.lengths import longbench_tokens
from suite.spec import Experiment, LongBenchSpec, RulerSpec
from suite.tasks.benchmarks import UNLIMITED, seeds_of


@dataclass(frozen=True)
class TaskSize:
    """samples: over all seeds. length: tokens of a prompt, on average, at most. longest: of the longest prompt, None:
    not cut. new_tokens: of an answer, at most. validation: how many validation prompts there are."""

    name: str
    samples: int
    length: int
    longest: int | None
    new_tokens: int
    validation: int = UNLIMITED


def task_sizes(experiment: Experiment) -> list[TaskSize]:
    """Of every task, in the order of suite.tasks.benchmarks.task_names."""
    sizes = []
    if experiment.ruler is not None:
        sizes += [_of_ruler(experiment.ruler, task) for task in experiment.ruler.tasks]
    if experiment.longbench is not None:
        sizes += [
            _of_longbench(experiment.longbench, task, experiment.model.name) for task in experiment.longbench.tasks
        ]
    if (mini := experiment.longbench_mini) is not None:
        sizes += [
            TaskSize(task, mini.samples, mini.length, mini.length, int(wording()[task]["max_new_tokens"]))
            for task in mini.tasks
        ]
    if (needle := experiment.needle) is not None:
        lengths = {task: needle.length_of(task) for task in needle.tasks}
        samples, answer = len(needle.chosen_depths), needle.max_new_tokens
        sizes += [TaskSize(task, samples, length, length, answer) for task, length in lengths.items()]
    return [_over_seeds(size, len(seeds_of(experiment, size.name))) for size in sizes]


def _over_seeds(size: TaskSize, seeds: int) -> TaskSize:
    return replace(size, samples=size.samples * seeds)


def _of_ruler(spec: RulerSpec, task: str) -> TaskSize:
    answer = ruler_task(task, spec.preset).tokens_to_generate
    return TaskSize(task, spec.samples, spec.length, spec.length, min(answer, spec.max_new_tokens or answer))


def _of_longbench(spec: LongBenchSpec, task: str, model: str) -> TaskSize:
    protocol = spec.resolved()
    count = len(mini_samples()[task]) if spec.subset is not None else official_count(task)
    validation = validation_count(count, spec.validation_share)
    cut = protocol.length_for(model)
    length = longbench_tokens(task, cut)
    if length is None:
        raise SuiteError(
            f"the length of {task}'s prompts is not known without its data, and protocol {protocol.name!r} does not "
            "cut them; give the data, or set [longbench.fields] max_length"
        )
    answer = protocol.max_new_tokens
    if isinstance(answer, tuple):
        answer = dict(answer).get(task)
    new_tokens = (longbench_task(task).max_new_tokens if answer is None else answer) + protocol.extra_new_tokens
    samples = count - validation
    return TaskSize(task, min(samples, spec.samples or samples), length, cut, new_tokens, validation)
