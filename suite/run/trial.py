"""Short trials of an experiment's own work on this machine, from which a plan extrapolates.

Samples: whole ones of a few tasks; where a method needs a profile, SnapKV at its budget stands in. Games: a few
coalitions on one prompt. Early ends of answers and work that rows share are in them, as they will be in the run; other
work beside it is not known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from cokv.cache.prefill import prefill
from cokv.methods.method import Method
from cokv.methods.registry import get_method
from cokv.model.loading import LoadedModel
from suite.heads.games import game_of, num_players
from suite.heads.halves import plans
from suite.run.cells import GridCell, grid_cells
from suite.run.samples import run_sample
from suite.spec import Experiment, GameSpec
from suite.tasks.benchmarks import seeds_of, test_prompts, validation_prompts
from suite.tasks.prompt import Prompt

SAMPLES, COALITIONS = 3, 16


@dataclass(frozen=True)
class Task:
    """A task's first prompt, and how many samples it has over all seeds, and validation prompts."""

    name: str
    samples: int
    first: Prompt
    validation: int

    @property
    def length(self) -> int:
        return self.first.prompt_tokens

    @property
    def new_tokens(self) -> int:
        return self.first.stop.max_new_tokens


def first_prompt(experiment: Experiment, loaded: LoadedModel, task: str) -> Prompt:
    return next(test_prompts(experiment, loaded, task, seeds_of(experiment, task)[0]))


def prefill_seconds(loaded: LoadedModel, length: int) -> float:
    """Per token, of a prompt of this length."""
    length = min(length, loaded.shape.context_length - 16)
    ids = torch.randint(3, loaded.model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(0))
    prefill(loaded.model, ids[:64])  # warm-up
    start = time.perf_counter()
    prefill(loaded.model, ids)
    return (time.perf_counter() - start) / length


def sample_seconds(experiment: Experiment, loaded: LoadedModel, tasks: list[Task], per_token: float) -> list[float]:
    """Of one sample of each task, every method at every budget.

    Tasks between those tried, in the order of their answers' length, lie between them in time.
    """
    grid = grid_cells(experiment)
    cells = [cell for cell in grid if not cell.method.needs_profile]
    missing = [cell for cell in grid if cell.method.needs_profile and cell.kv_budget is not None]
    cells += [GridCell(_stand_in(number), cell.kv_budget) for number, cell in enumerate(missing)]
    by_answer = sorted(tasks, key=lambda task: task.new_tokens)
    tried = sorted({round(place) for place in np.linspace(0, len(tasks) - 1, min(SAMPLES, len(tasks)))})
    points = {}
    for task in (by_answer[place] for place in tried):
        start = time.perf_counter()
        for _ in run_sample(loaded, task.first, cells, None, first_token=experiment.protocol.first_token):
            pass
        seconds = time.perf_counter() - start
        read = task.length * per_token
        points[task.new_tokens] = read + max(seconds - read, 0) * len(grid) / len(cells)
    lengths = sorted(points)
    times = [points[length] for length in lengths]
    return [float(np.interp(task.new_tokens, lengths, times)) for task in tasks]


def _stand_in(number: int) -> Method:
    """A row that selects by its window and then grows, as most methods with a profile do; each number is another."""
    return get_method("snapkv", window_size=1, kernel_size=3 + 2 * number)


def coalition_seconds(experiment: Experiment, loaded: LoadedModel, task: str, spec: GameSpec) -> float:
    """Of one coalition on one prompt of this task's game, its prefill not counted."""
    (prompt,) = validation_prompts(experiment, loaded, task, 1)
    game = game_of(loaded, [prompt], spec)
    coalitions = plans(spec, num_players(loaded, spec))[0].coalitions[:COALITIONS]
    game.per_prompt(coalitions[:1])  # reads the prompt
    start = time.perf_counter()
    game.per_prompt(coalitions)
    return (time.perf_counter() - start) / len(coalitions)
