"""Head-masking curves and the transfer matrix of one experiment, in its run folder: masking.json, transfer.json.

Evaluated coalitions are in a ledger, transfer's answers are a line per sample, so that a killed run continues from
both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cokv.cluster import InProcess
from cokv.game.identity import digest
from cokv.game.plan import BoolArray, distinct
from cokv.methods.method import Method
from cokv.model.loading import LoadedModel
from cokv.types import CokvError, FloatArray, HeadScores
from suite.errors import SuiteError
from suite.heads.block_evaluation import evaluate_games, show_progress
from suite.heads.games import TEST, all_test_prompts, game_of, open_game, worker_of
from suite.heads.masking import Evaluate, MaskingSpec, coalitions_of, curves, cuts
from suite.heads.run_scores import MASKING, TRANSFER, scores_file
from suite.heads.transfer import answers, matrix, methods_of
from suite.run.folder import RunFolder
from suite.run.progress import progress
from suite.spec import Experiment, GameSpec
from suite.tasks.prompt import Prompt

ANSWERS = "transfer.jsonl"


def scores_of(folder: RunFolder, task: str, loaded: LoadedModel) -> HeadScores:
    """The run's head scores of a task."""
    file = scores_file(folder, task)
    if not file.is_file():
        raise SuiteError(f"{folder.path} holds no head scores of {task}; run `cokv reproduce`, or give --scores FILE")
    return HeadScores.load(file).require_shape(loaded.shape.num_layers, loaded.shape.num_kv_heads)


def samples_of(experiment: Experiment, loaded: LoadedModel, task: str, count: int | None) -> list[Prompt]:
    """The first `count` test samples over all seeds, or all."""
    return list(itertools.islice(all_test_prompts(experiment, loaded, task), count))


def recorded_game(
    folder: RunFolder,
    loaded: LoadedModel,
    task: str,
    prompts: list[Prompt],
    window_size: int,
    advance: Callable[[int], None],
) -> Evaluate:
    """The head game over test samples, in its folder: recorded coalitions are never evaluated again."""
    spec = GameSpec(window_size=window_size, slice_sizes=(1,), coalitions_per_size=1)  # its coalitions are not used
    name = f"{task}{TEST}"

    def evaluate(coalitions: BoolArray) -> FloatArray:
        with open_game(folder.path.parent, name, loaded, loaded.device.type, prompts, spec) as (_, game):
            evaluate_games(
                {name: (game, coalitions)},
                InProcess(),
                lambda _: worker_of(game_of(loaded, prompts, spec)),
                lambda _: show_progress(advance),
            )
            return game.utilities(coalitions)

    return evaluate


def masking(
    experiment: Experiment,
    loaded: LoadedModel,
    folder: RunFolder,
    task: str,
    spec: MaskingSpec,
    samples: int | None = None,
    scores: tuple[str, HeadScores] | None = None,
) -> dict[str, Any]:
    """Adds one task's curves to masking.json, in place of curves of the same task, scores and preset."""
    name, profile = scores or ("run", scores_of(folder, task, loaded))
    profile.require_shape(loaded.shape.num_layers, loaded.shape.num_kv_heads)
    window = experiment.game.window_size if experiment.game else 8
    prompts = samples_of(experiment, loaded, task, samples)
    spec.counts_of(profile.values.size)  # raises before any prompt is read
    evaluations = len(distinct(coalitions_of(cuts(profile.values, spec)))[0])
    with progress(f"masking {task}", evaluations) as report:
        task_curves = curves(profile, recorded_game(folder, loaded, task, prompts, window, report.advance), spec)
    entry = {"task": task, "scores": name, "window_size": window, "provenance": profile.provenance, **task_curves}
    record = folder.read(MASKING) or {"kind": "head masking", "curves": []}
    by_key = {(curve["task"], curve["scores"], curve["preset"]): curve for curve in [*record["curves"], entry]}
    record["curves"] = [by_key[key] for key in sorted(by_key)]
    folder.write(MASKING, record)
    return entry


@dataclass(frozen=True)
class TransferSettings:
    """The inputs of a transfer matrix: every task's scores, CoKV and its uniform counterpart, one budget."""

    scores: Mapping[str, HeadScores]
    methods: tuple[Method, Method]
    kv_budget: int | str


def transfer_settings(
    experiment: Experiment, loaded: LoadedModel, folder: RunFolder, kv_budget: int | str, tasks: tuple[str, ...]
) -> TransferSettings:
    """The inputs of a matrix, checked to fit the model and each other; nothing is written or answered."""
    params = next((m.params for m in experiment.methods if (m.name, m.preset) == ("cokv", "normalized")), {})
    cokv, uniform = methods_of(params)
    heads = loaded.shape.num_layers, loaded.shape.num_kv_heads
    uniform.check(kv_budget, *heads)  # refuses a budget that no prompt could be compressed to
    scores = {task: scores_of(folder, task, loaded) for task in tasks}
    for task, profile in scores.items():
        try:
            cokv.check(kv_budget, *heads, profile)
        except CokvError as error:
            raise SuiteError(f"head scores of {task}: {error}; name the other tasks with --task") from None
    return TransferSettings(scores, (cokv, uniform), kv_budget)


def transfer(
    experiment: Experiment,
    loaded: LoadedModel,
    folder: RunFolder,
    settings: TransferSettings,
    samples: int | None = None,
) -> dict[str, Any]:
    """Writes transfer.json: every task's scores on every task's test samples, at one budget.

    Each sample's answers are a line of transfer.jsonl, so that a killed run continues.
    """
    scores, methods, kv_budget = settings.scores, settings.methods, settings.kv_budget
    tasks = tuple(scores)
    prompts = {task: samples_of(experiment, loaded, task, samples) for task in tasks}
    values = {task: head_scores.values.tolist() for task, head_scores in scores.items()}
    setting = digest({"kv_budget": kv_budget, "method": methods[0].spec(), "scores": values})
    lines = folder.lines(ANSWERS, ("setting", "task", "sample_id", "scores"))
    known_scores = {(line["task"], line["sample_id"]): line["scores"] for line in lines if line["setting"] == setting}
    by_task: dict[str, list[dict[str, float]]] = {task: [] for task in tasks}
    with folder.appender(ANSWERS) as append, progress("transfer", sum(map(len, prompts.values()))) as report:
        for prompt in (prompt for task in tasks for prompt in prompts[task]):
            key = (prompt.task, prompt.sample_id)
            if key not in known_scores:
                known_scores[key] = answers(loaded, prompt, scores, methods, kv_budget)
                append([{"setting": setting, "task": key[0], "sample_id": key[1], "scores": known_scores[key]}])
            by_task[prompt.task].append(known_scores[key])
            report.advance(note=prompt.task)
    record = {
        "kind": "score transfer",
        "kv_budget": kv_budget,
        "method": {**methods[0].spec(), "variant": methods[0].variant},
        **matrix(by_task, tasks),
    }
    folder.write(TRANSFER, record)
    return record
