"""An estimate of an experiment without running it: prompts, tokens, and the time that a short trial predicts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from cokv.cache.prefill import prefill
from cokv.decode.batches import Row, Way
from cokv.decode.decode import Stop, decode
from cokv.model.loading import LoadedModel
from cokv.types import Selection
from suite.checks.workload import workload
from suite.heads.halves import evaluations
from suite.profiles import run_profiles as profiles_run
from suite.run.cells import grid_cells
from suite.spec import Experiment
from suite.tasks.benchmarks import seeds_of, task_names, test_count, test_prompts


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


@dataclass(frozen=True)
class _Task:
    name: str
    samples: int  # over all seeds
    length: int  # tokens of its first prompt, assumed for all
    new_tokens: int


def _task(experiment: Experiment, loaded: LoadedModel, name: str) -> _Task:
    seeds = seeds_of(experiment, name)
    first = next(test_prompts(experiment, loaded, name, seeds[0]))
    return _Task(name, len(seeds) * test_count(experiment, name), first.prompt_tokens, first.stop.max_new_tokens)


def plan(experiment: Experiment, loaded: LoadedModel, workers: int = 1) -> list[Stage]:
    """The stages of a run. Times come from one prefill and a few decode steps on this machine, so they are rough."""
    grid = len(grid_cells(experiment))
    tasks = [_task(experiment, loaded, name) for name in task_names(experiment)]
    per_token, per_step = _trial(loaded, max(t.length for t in tasks), grid)
    stages = []
    if experiment.game is not None:
        spec = experiment.game
        players = loaded.shape.num_layers * loaded.shape.num_kv_heads
        coalitions = evaluations(spec, players)
        per_row = _trial(loaded, max(t.length for t in tasks), 16, "shared")[1] / 16
        removal = {t.name: min(spec.removal_samples, t.samples) for t in tasks}
        rows = {t.name: spec.prompts * coalitions + removal[t.name] * 6 for t in tasks}
        prompts = sum(spec.prompts + removal[t.name] for t in tasks)
        prompt_tokens = sum((spec.prompts + removal[t.name]) * t.length for t in tasks)
        steps = sum(rows[t.name] * t.new_tokens for t in tasks)
        seconds = (prompt_tokens * per_token + steps * per_row) / workers
        stages.append(Stage("head game", prompts, sum(rows.values()), prompt_tokens, steps, seconds))
    prompts, profile_rows, prompt_tokens, steps = profiles_run.workload(
        experiment, max(t.length for t in tasks), max(t.new_tokens for t in tasks)
    )
    if prompts:
        seconds = prompt_tokens * per_token + steps * per_step / grid
        stages.append(Stage("profiles", prompts, profile_rows, prompt_tokens, steps, seconds))
    prompts, prompt_tokens = sum(t.samples for t in tasks), sum(t.samples * t.length for t in tasks)
    steps = sum(t.samples * t.new_tokens for t in tasks)
    seconds = (prompt_tokens * per_token + steps * per_step) / workers
    stages.append(Stage("samples", prompts, prompts * grid, prompt_tokens, steps * grid, seconds))
    if experiment.measure is not None:
        measure = experiment.measure
        arms = sum(c.nominal == experiment.kv_budgets[0] for c in grid_cells(experiment)) + 2
        steps = arms * (measure.repeats + 1) * measure.new_tokens
        stages.append(Stage("latency and memory", 1, arms, measure.prompt_tokens, steps, steps * per_step / 4))
    if experiment.checks is not None:
        by_name = {t.name: t for t in tasks}
        work = workload(experiment, loaded)
        prompts = sum(w.game_prompts + w.samples for w in work.values())
        prompt_tokens = sum((w.game_prompts + w.samples) * by_name[name].length for name, w in work.items())
        rows_of_checks = sum(w.game_rows + w.answer_rows for w in work.values())
        steps = sum((w.game_rows + w.answer_rows) * by_name[name].new_tokens for name, w in work.items())
        seconds = (prompt_tokens * per_token + steps * per_step / grid) / workers
        stages.append(Stage("checks", prompts, rows_of_checks, prompt_tokens, steps, seconds))
    return stages


def _trial(loaded: LoadedModel, length: int, rows: int, way: Way = "ragged") -> tuple[float, float]:
    """Seconds per prompt token of a prefill, and per decode step of `rows` rows.

    Ragged rows keep an eighth of the prompt, shared rows all of it.
    """
    length = min(length, loaded.shape.context_length - 16)
    ids = torch.randint(3, loaded.model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(0))
    prefill(loaded.model, ids)  # warm-up
    start = time.perf_counter()
    read = prefill(loaded.model, ids)
    per_token = (time.perf_counter() - start) / length
    mask = torch.zeros(loaded.shape.num_layers, loaded.shape.num_kv_heads, length, dtype=torch.bool)
    mask[..., -length // 8 if way == "ragged" else 0 :] = True
    row = Row(Selection.from_mask(mask))
    start = time.perf_counter()
    decode(loaded.model, read, [row] * rows, Stop(8), way=way)
    return per_token, (time.perf_counter() - start) / 8
