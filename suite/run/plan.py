"""An estimate of an experiment without running it: prompts, tokens, and the time that short trials predict."""

from __future__ import annotations

from dataclasses import dataclass

from cokv.model.loading import LoadedModel
from suite.checks.workload import workload
from suite.run.cells import grid_cells
from suite.run.trial import Task, coalition_seconds, first_prompt, prefill_seconds, sample_seconds
from suite.run.work import Work, work_of
from suite.spec import Experiment
from suite.tasks.benchmarks import seeds_of, task_names, test_count, validation_count


@dataclass(frozen=True)
class Stage:
    """One stage's work. Decode tokens are an upper bound: answers may end early."""

    name: str
    prompts: int
    rows: int
    prefill_tokens: int
    decode_tokens: int
    seconds: float

    @classmethod
    def of(cls, work: Work, seconds: float) -> Stage:
        return cls(work.name, work.prompts, work.rows, work.prefill_tokens, work.decode_tokens, seconds)


def in_words(seconds: float) -> str:
    """A rough time: whole seconds below two minutes, then minutes, then hours."""
    if seconds < 1.5:
        return "1 second"
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def plan(experiment: Experiment, loaded: LoadedModel, workers: int = 1) -> list[Stage]:
    """The stages of a run that begins from nothing. Times are of this machine as busy as it is now."""
    grid = len(grid_cells(experiment))
    tasks = [
        Task(
            name,
            len(seeds_of(experiment, name)) * test_count(experiment, name),
            first_prompt(experiment, loaded, name),
            validation_count(experiment, name),
        )
        for name in task_names(experiment)
    ]
    per_token = prefill_seconds(loaded, max(t.length for t in tasks))
    per_sample = dict(zip([t.name for t in tasks], sample_seconds(experiment, loaded, tasks, per_token), strict=True))
    # of one row and one token it may generate, on average
    per_step = sum(per_sample.values()) / sum(grid * t.new_tokens for t in tasks)
    played = () if experiment.game is None else experiment.game.tasks or tuple(t.name for t in tasks)
    per_coalition = {
        name: coalition_seconds(experiment, loaded, name, experiment.game) for name in played if experiment.game
    }
    checks = None if experiment.checks is None else workload(experiment, loaded)

    def seconds(work: Work) -> float:
        if work.name == "samples":
            return sum(part.task.samples * per_sample[part.task.name] for part in work.parts) / workers
        if not work.parts:
            # Latency is measured arm by arm: a step then is bound by the weights, as that of several rows is.
            rows = 8 if work.name == "latency and memory" else 1
            return work.prefill_tokens * per_token + work.decode_tokens * per_step * rows
        total = work.prefill_tokens * per_token
        for part in work.parts:
            of_row = part.task.new_tokens * per_step
            total += part.rows * of_row + part.coalitions * per_coalition.get(part.task.name, of_row)
        return total / workers

    return [Stage.of(work, seconds(work)) for work in work_of(experiment, loaded.shape, tasks, checks)]
