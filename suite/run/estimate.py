"""Hours of an experiment on the GPU that it is sized for, without its weights, its data or that GPU.

Counts are those of the run (suite/run/work.py), prompts' lengths the data sets' printed averages, seconds follow from
measured rates (suite/known/gpus.py). An upper bound where answers end early; choosing tokens is not in it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from suite.checks.workload import workload
from suite.errors import SuiteError
from suite.known.gpus import BATCH_BYTES, ROWS_OF_A_STEP, Rates, gpus
from suite.known.models import HubModel, hub_models
from suite.run.cells import GridCell, grid_cells
from suite.run.plan import Stage
from suite.run.task_sizes import TaskSize, task_sizes
from suite.run.work import Part, Work, work_of
from suite.spec import Experiment

SIZED_FOR = "h200"  # where the experiment has no [paper] hardware


def rates_of(experiment: Experiment) -> Rates:
    """The model's rates on the experiment's hardware. Raises SuiteError for a model whose shape is not known."""
    known = hub_models()
    if experiment.model.name not in known:
        raise SuiteError(
            f"the cost of {experiment.model.name!r} cannot be said without its weights; known by their shape are "
            f"{', '.join(known)}"
        )
    hardware = SIZED_FOR if experiment.paper is None else experiment.paper.hardware
    return Rates(known[experiment.model.name], gpus()[hardware])


def estimate(experiment: Experiment) -> list[Stage]:
    """The stages of a run that begins from nothing, with their seconds on the experiment's hardware."""
    rates, tasks = rates_of(experiment), task_sizes(experiment)
    checks = None
    if experiment.checks is not None:
        outline: Any = SimpleNamespace(shape=rates.model.shape, name=rates.model.name)
        checks = workload(experiment, outline)
    stages = work_of(experiment, rates.model.shape, tasks, checks)
    return [Stage.of(work, _seconds(work, experiment, rates, tasks)) for work in stages]


def _seconds(work: Work, experiment: Experiment, rates: Rates, tasks: list[TaskSize]) -> float:
    if not work.parts:
        length = max(task.length for task in tasks)
        if work.name == "latency and memory" and experiment.measure is not None:
            length = experiment.measure.prompt_tokens
        # Profiles and latencies decode one row at a time; needles are as long as the longest task or shorter.
        return work.prefill_tokens / length * rates.read(length) + work.decode_tokens * rates.step()
    return sum(_of_part(part, work, experiment, rates) for part in work.parts)


def _of_part(part: Part, work: Work, experiment: Experiment, rates: Rates) -> float:
    task = part.task
    seconds = part.prompts * rates.read(task.length) + part.coalitions * rates.coalition(task.length, task.new_tokens)
    if part.rows:
        if work.name == "samples":
            batches = part.prompts * batches_of(grid_cells(experiment), task, rates.model)
        else:
            batches = -(-part.rows // ROWS_OF_A_STEP)
        seconds += batches * task.new_tokens * rates.step()
    return seconds


def batches_of(cells: list[GridCell], task: Any, model: HubModel) -> int:
    """Batches in which one prompt's rows decode: of at most `ROWS_OF_A_STEP` rows and `BATCH_BYTES` of K and V."""
    batches, rows, used = 0, ROWS_OF_A_STEP, BATCH_BYTES
    for cell in cells:
        size = row_bytes(cell, task, model)
        if rows >= ROWS_OF_A_STEP or used + size > BATCH_BYTES:
            batches, rows, used = batches + 1, 0, 0
        rows, used = rows + 1, used + size
    return batches


def row_bytes(cell: GridCell, task: Any, model: HubModel) -> int:
    """K and V of one row at its end: what it keeps of the prompt, and its answer."""
    slots = task.length if cell.kv_budget is None else min(cell.kv_budget.of(max(task.length, 1)), task.length)
    return (slots + task.new_tokens) * kv_bytes_per_token(model.shape, 2)


def kv_bytes_per_token(shape: Any, itemsize: int) -> int:
    """K and V of one token in all layers with a full cache."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * itemsize
