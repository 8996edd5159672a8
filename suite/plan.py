"""What an experiment would do, without doing it: prompts, tokens, and the time that a short trial predicts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from cokv.decode import Row, Stop, decode
from cokv.model import LoadedModel
from cokv.prefill import prefill
from cokv.types import Selection
from suite.heads import evaluations
from suite.run import cells
from suite.spec import Experiment
from suite.tasks import task_names, test_prompts


@dataclass(frozen=True)
class Stage:
    """One stage's work. Decode tokens are an upper bound: answers may end early."""

    name: str
    prompts: int
    rows: int
    prefill_tokens: int
    decode_tokens: int
    seconds: float


def plan(experiment: Experiment, loaded: LoadedModel) -> list[Stage]:
    """The stages of a run. Times come from one prefill and a few decode steps on this machine, so they are rough."""
    tasks, seeds, length = task_names(experiment), experiment.seeds, experiment.ruler.length
    longest = {task: next(test_prompts(experiment, loaded, task, seeds[0])).stop.max_new_tokens for task in tasks}
    grid = len(cells(experiment))
    per_prefill, per_step = _trial(loaded, length, grid)
    samples = len(seeds) * experiment.ruler.samples
    stages = []
    if experiment.game is not None:
        spec = experiment.game
        players = loaded.shape.num_layers * loaded.shape.num_kv_heads
        coalitions = evaluations(spec, players)
        removal = min(spec.removal_samples, samples)
        rows = sum(spec.prompts * coalitions + removal * 6 for _ in tasks)
        steps = sum((spec.prompts * coalitions + removal * 6) * longest[t] for t in tasks)
        prompts = len(tasks) * (spec.prompts + removal)
        per_row = _trial(loaded, length, 16, "shared")[1] / 16
        stages.append(
            Stage("head game", prompts, rows, prompts * length, steps, prompts * per_prefill + steps * per_row)
        )
    prompts = len(tasks) * samples
    steps = samples * sum(longest.values())
    stages.append(
        Stage(
            "samples", prompts, prompts * grid, prompts * length, steps * grid, prompts * per_prefill + steps * per_step
        )
    )
    if experiment.measure is not None:
        m = experiment.measure
        arms = sum(c.kv_budget == experiment.kv_budgets[0] for c in cells(experiment)) + 2
        steps = arms * (m.repeats + 1) * m.new_tokens
        stages.append(Stage("latency and memory", 1, arms, m.prompt_tokens, steps, steps * per_step / 4))
    return stages


def _trial(loaded: LoadedModel, length: int, rows: int, way: str = "ragged") -> tuple[float, float]:
    """Seconds of one prefill, and of one decode step of `rows` rows.

    Ragged rows keep an eighth of the prompt, shared ones all of it.
    """
    length = min(length, loaded.shape.context_length - 16)
    ids = torch.randint(3, loaded.model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(0))
    made = prefill(loaded.model, ids)
    start = time.perf_counter()
    made = prefill(loaded.model, ids)
    per_prefill = time.perf_counter() - start
    mask = torch.zeros(loaded.shape.num_layers, loaded.shape.num_kv_heads, length, dtype=torch.bool)
    mask[..., -length // 8 if way == "ragged" else 0 :] = True
    row = Row(Selection.from_mask(mask))
    start = time.perf_counter()
    decode(loaded.model, made, [row] * rows, Stop(8), way="shared" if way == "shared" else "ragged")
    return per_prefill, (time.perf_counter() - start) / 8
