"""Head-masking curves and the transfer matrix of one experiment, in its run folder: masking.json, transfer.json.

Curves come out of a ledger, matrices out of a line per sample, so that a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cokv.cluster import InProcess
from cokv.game.identity import canonical
from cokv.game.ledger import Ledger
from cokv.game.plan import BoolArray
from cokv.methods.method import Method
from cokv.model.loading import LoadedModel
from cokv.types import FloatArray, HeadScores
from suite.errors import SuiteError
from suite.heads.games import game_of, identity, worker_of
from suite.heads.masking import Evaluate, MaskingSpec, curves, cuts
from suite.heads.recording import record
from suite.heads.transfer import answers, matrix, methods_of
from suite.run.folder import RunFolder
from suite.run.progress import progress
from suite.spec import Experiment, GameSpec
from suite.tasks.benchmarks import seeds_of, test_prompts
from suite.tasks.prompt import Prompt

MASKING, TRANSFER, ANSWERS = "masking.json", "transfer.json", "transfer.jsonl"
LEDGER = "masking.sqlite"


def scores_of(folder: RunFolder, task: str, loaded: LoadedModel) -> HeadScores:
    """Head scores that the run made for a task."""
    file = folder.path / "head_scores" / f"{task}.safetensors"
    if not file.is_file():
        raise SuiteError(f"{folder.path} holds no head scores of {task}; run `cokv reproduce`, or give --scores FILE")
    return HeadScores.load(file).require_shape(loaded.shape.num_layers, loaded.shape.num_kv_heads)


def samples_of(experiment: Experiment, loaded: LoadedModel, task: str, count: int | None) -> list[Prompt]:
    """The first `count` test samples of all seeds; no validation sample is among them."""
    prompts = [p for seed in seeds_of(experiment, task) for p in test_prompts(experiment, loaded, task, seed)]
    return prompts if count is None else prompts[:count]


def recorded(
    folder: RunFolder,
    loaded: LoadedModel,
    task: str,
    prompts: list[Prompt],
    window_size: int,
    advance: Callable[[int], None],
) -> Evaluate:
    """The head game over test samples, out of a ledger: what it knows is not evaluated again, after a kill or ever."""
    spec = GameSpec(window_size=window_size, slice_sizes=(1,), coalitions_per_size=1)  # says what the game is, no more
    players = loaded.shape.num_layers * loaded.shape.num_kv_heads

    def evaluate(coalitions: BoolArray) -> FloatArray:
        shown = 0

        def watch(there: int) -> bool:
            nonlocal shown
            advance(there - shown)
            shown = there
            return False

        with Ledger(folder.path / LEDGER) as ledger:
            about = identity(loaded, loaded.device.type, prompts, spec)
            game = ledger.game(f"{task}/{len(prompts)} samples", about, players, len(prompts))
            record(game, coalitions, InProcess(), lambda _: worker_of(game_of(loaded, prompts, window_size)), watch)
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
    spec.counts_of(profile.values.size)  # a wrong count is refused before the prompts are read
    with progress(f"masking {task}", _evaluations(profile, spec)) as report:
        found = curves(profile, recorded(folder, loaded, task, prompts, window, report.advance), spec)
    entry = {"task": task, "scores": name, "window_size": window, "provenance": profile.provenance, **found}
    made = folder.read(MASKING) or {"kind": "head masking", "curves": []}
    same = (task, name, spec.preset)
    kept = [one for one in made["curves"] if (one["task"], one["scores"], one["preset"]) != same]
    made["curves"] = sorted([*kept, entry], key=lambda one: (one["task"], one["scores"], one["preset"]))
    folder.write(MASKING, made)
    return entry


def _evaluations(profile: HeadScores, spec: MaskingSpec) -> int:
    sets = {cut.masked.tobytes() for cut in cuts(profile.values, spec)}
    return len(sets | {np.zeros(profile.values.size, dtype=np.bool_).tobytes()})


@dataclass(frozen=True)
class Carried:
    """What a transfer matrix is made of: every task's scores, CoKV and its uniform twin, one budget."""

    scores: Mapping[str, HeadScores]
    methods: tuple[Method, Method]
    kv_budget: int


def carried(
    experiment: Experiment, loaded: LoadedModel, folder: RunFolder, kv_budget: int, tasks: tuple[str, ...]
) -> Carried:
    """The parts of a matrix, once they are known to work together; nothing is written or answered."""
    params = next((m.params for m in experiment.methods if (m.name, m.preset) == ("cokv", "normalized")), {})
    cokv, uniform = methods_of(params)
    uniform.layer_select(loaded.shape, kv_budget)  # refuses a budget that no prompt could be compressed to
    scores = {task: scores_of(folder, task, loaded) for task in tasks}
    for profile in scores.values():
        cokv.layer_select(loaded.shape, kv_budget, profile)
    return Carried(scores, (cokv, uniform), kv_budget)


def transfer(
    experiment: Experiment, loaded: LoadedModel, folder: RunFolder, parts: Carried, samples: int | None = None
) -> dict[str, Any]:
    """Writes transfer.json: every task's scores on every task's test samples, at one budget.

    Each sample's answers are a line of transfer.jsonl, so a killed run goes on where it was.
    """
    scores, methods, kv_budget, tasks = parts.scores, parts.methods, parts.kv_budget, tuple(parts.scores)
    prompts = {task: samples_of(experiment, loaded, task, samples) for task in tasks}
    about = {
        "kv_budget": kv_budget,
        "method": methods[0].spec(),
        "scores": {t: s.values.tolist() for t, s in scores.items()},
    }
    setting = hashlib.sha256(canonical(about).encode()).hexdigest()[:16]
    lines = folder.lines(ANSWERS, ("setting", "task", "sample_id", "scores"))
    known = {(line["task"], line["sample_id"]): line["scores"] for line in lines if line["setting"] == setting}
    found: dict[str, list[dict[str, float]]] = {task: [] for task in tasks}
    with folder.appender(ANSWERS) as append, progress("transfer", sum(map(len, prompts.values()))) as report:
        for prompt in (prompt for task in tasks for prompt in prompts[task]):
            key = (prompt.task, prompt.sample_id)
            if key not in known:
                known[key] = answers(loaded, prompt, scores, methods, kv_budget)
                append([{"setting": setting, "task": key[0], "sample_id": key[1], "scores": known[key]}])
            found[prompt.task].append(known[key])
            report.advance(note=prompt.task)
    made = {
        "kind": "score transfer",
        "kv_budget": kv_budget,
        "method": methods[0].spec(),
        "seed": 0,
        **matrix(found, tasks, seed=0),
    }
    folder.write(TRANSFER, made)
    return made
