"""An estimate of an experiment without running it: prompts, tokens, and the time that short trials predict."""

from __future__ import annotations

from dataclasses import dataclass

from cokv.methods.method import prefill_requirements
from cokv.methods.registry import get_method
from cokv.model.loading import LoadedModel
from suite.checks.workload import workload
from suite.heads.halves import evaluations
from suite.profiles import run_profiles as profiles_run
from suite.run.cells import grid_cells
from suite.run.trial import Task, coalition_seconds, first_prompt, prefill_seconds, sample_seconds
from suite.spec import Experiment
from suite.tasks.benchmarks import seeds_of, task_names, test_count


@dataclass(frozen=True)
class Stage:
    """One stage's work. Decode tokens are an upper bound: answers may end early."""

    name: str
    prompts: int
    rows: int
    prefill_tokens: int
    decode_tokens: int
    seconds: float


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
        )
        for name in task_names(experiment)
    ]
    by_name = {task.name: task for task in tasks}
    per_token = prefill_seconds(loaded, max(t.length for t in tasks))
    per_sample = sample_seconds(experiment, loaded, tasks, per_token)
    # of one row and one token it may generate, on average
    per_step = sum(per_sample) / sum(grid * t.new_tokens for t in tasks)
    stages = []
    per_coalition: dict[str, float] = {}
    if experiment.game is not None:
        spec = experiment.game
        coalitions = evaluations(spec, loaded.shape.num_layers * loaded.shape.num_kv_heads)
        played = [by_name[name] for name in spec.tasks or by_name]
        removal = {t.name: min(spec.removal_samples, t.samples) for t in played}
        rows = {t.name: spec.prompts * coalitions + removal[t.name] * 6 for t in played}
        prompts = sum(spec.prompts + removal[t.name] for t in played)
        prompt_tokens = sum((spec.prompts + removal[t.name]) * t.length for t in played)
        steps = sum(rows[t.name] * t.new_tokens for t in played)
        per_coalition = {t.name: coalition_seconds(experiment, loaded, t.name, spec) for t in played}
        seconds = (prompt_tokens * per_token + sum(rows[t.name] * per_coalition[t.name] for t in played)) / workers
        stages.append(Stage("head game", prompts, sum(rows.values()), prompt_tokens, steps, seconds))
    prompts, profile_rows, prompt_tokens, steps = profiles_run.workload(
        experiment, max(t.length for t in tasks), max(t.new_tokens for t in tasks)
    )
    if prompts:
        seconds = prompt_tokens * per_token + steps * per_step
        stages.append(Stage("profiles", prompts, profile_rows, prompt_tokens, steps, seconds))
    prompts, prompt_tokens = sum(t.samples for t in tasks), sum(t.samples * t.length for t in tasks)
    steps = sum(t.samples * t.new_tokens for t in tasks)
    seconds = sum(t.samples * each for t, each in zip(tasks, per_sample, strict=True)) / workers
    stages.append(Stage("samples", prompts, prompts * grid, prompt_tokens, steps * grid, seconds))
    if experiment.measure is not None:
        stages.append(_measure(experiment, per_token, per_step))
    if experiment.checks is not None:
        work = workload(experiment, loaded)
        prompts = sum(w.game_prompts + w.samples for w in work.values())
        prompt_tokens = sum((w.game_prompts + w.samples) * by_name[name].length for name, w in work.items())
        rows_of_checks = sum(w.game_rows + w.answer_rows for w in work.values())
        steps = sum((w.game_rows + w.answer_rows) * by_name[name].new_tokens for name, w in work.items())
        seconds = prompt_tokens * per_token
        for name, w in work.items():
            of_row = by_name[name].new_tokens * per_step
            seconds += w.answer_rows * of_row + w.game_rows * per_coalition.get(name, of_row)
        stages.append(Stage("checks", prompts, rows_of_checks, prompt_tokens, steps, seconds / workers))
    return stages


def _measure(experiment: Experiment, per_token: float, per_step: float) -> Stage:
    """Every arm alone, in one process: a step then is bound by the weights, as that of several rows is."""
    measure = experiment.measure
    assert measure is not None
    methods = [get_method(m.name, m.preset, **m.params) for m in experiment.methods]
    needs = {(window, tuple(observers)) for window, observers in (prefill_requirements([m]) for m in methods)}
    repeats, arms = measure.repeats + 1, len(methods) + 1
    steps = arms * repeats * measure.new_tokens
    read = (1 + len(needs) + 1) * repeats * measure.prompt_tokens  # DynamicCache is filled each time
    return Stage("latency and memory", 1, arms, read, steps, read * per_token + steps * per_step * 8)
