"""Head scores of an experiment: two independent SSV runs per task, their stability, and the head-removal check.

The games are played on validation prompts. Every evaluated coalition is in the run's ledger, so a killed run goes on
where it was. What is used by methods is the two runs pooled: twice the draws. Head removal is measured on test samples:
heads are cut by score and the rest answers (removal.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from cokv.cluster import InProcess, MakeWorker, Pool
from cokv.game.estimators import AdjustedSlicedShapley, SlicedShapley
from cokv.game.ledger import Ledger
from cokv.game.plan import BoolArray, Plan, distinct, in_turn, merge_plans
from cokv.game.recorded import RecordedGame
from cokv.game.stability import assess
from cokv.model.loading import LoadedModel
from cokv.types import JSON, HeadScores
from suite.heads.games import REMOVAL, GamesWorker, game_prompts, game_spec, open_game
from suite.heads.recording import record_games
from suite.heads.removal import cuts, removal
from suite.heads.scores import design
from suite.run.folder import RunFolder
from suite.run.progress import Reporter, progress
from suite.spec import Experiment, GameSpec
from suite.tasks.benchmarks import task_names

Estimator: TypeAlias = SlicedShapley | AdjustedSlicedShapley
LEDGER = "game.sqlite"


def estimator(spec: GameSpec) -> Estimator:
    if spec.estimator == "adjusted":
        return AdjustedSlicedShapley(spec.slice_sizes, spec.coalitions_per_size, spec.draws)
    return SlicedShapley(spec.slice_sizes, spec.coalitions_per_size, spec.aggregation, spec.draws)


def seeds(spec: GameSpec) -> tuple[int, int]:
    """Of the two independent runs."""
    return 2 * spec.seed, 2 * spec.seed + 1


def plans(spec: GameSpec, num_players: int) -> tuple[Plan, Plan]:
    """The two independent runs' coalitions."""
    first, second = (estimator(spec).plan(num_players, seed) for seed in seeds(spec))
    return first, second


def order(pair: tuple[Plan, Plan]) -> BoolArray:
    """All coalitions in the order of their evaluation: a draw of the one run, a draw of the other."""
    return merge_plans(pair).coalitions[in_turn(pair)]


def evaluations(spec: GameSpec, num_players: int) -> int:
    """Distinct coalitions of both runs together, for one task."""
    return len(distinct(merge_plans(plans(spec, num_players)).coalitions)[0])


def compute_head_scores(
    experiment: Experiment, loaded: LoadedModel, folder: RunFolder, pool: Pool
) -> dict[str, HeadScores]:
    """Per task, the pooled SSV. Writes head_scores/<task>.safetensors and stability.json."""
    spec, shape = game_spec(experiment), loaded.shape
    players = shape.num_layers * shape.num_kv_heads
    pair, method = plans(spec, players), estimator(spec)
    tasks, coalitions = task_names(experiment), order(pair)
    total = len(tasks) * (evaluations(spec, players) + len(cuts(np.zeros(players), spec)) + 1)
    scores: dict[str, HeadScores] = {}
    found: dict[str, Any] = {}
    with Ledger(folder.path / LEDGER) as ledger, progress("head game", total) as report:
        play = partial(_play, experiment, loaded, ledger, pool, report)
        for task, game in play({task: coalitions for task in tasks}).items():
            scores[task], found[task] = _assessed(game, method, pair, spec, loaded)
            scores[task].save(folder.path / "head_scores" / f"{task}.safetensors")
        removed = removal(play, {task: one.values.ravel() for task, one in scores.items()}, spec)
    folder.write(
        "stability.json",
        {
            "num_players": players,
            "num_layers": shape.num_layers,
            "num_kv_heads": shape.num_kv_heads,
            "utility": _in_words(spec),
            "slice_sizes": list(spec.slice_sizes),
            "coalitions_per_size": spec.coalitions_per_size,
            "prompts": spec.prompts,
            "tasks": {task: {**found[task], "head_removal": removed[task]} for task in tasks},
        },
    )
    return scores


def _play(
    experiment: Experiment,
    loaded: LoadedModel,
    ledger: Ledger,
    pool: Pool,
    report: Reporter,
    coalitions: Mapping[str, BoolArray],
) -> dict[str, RecordedGame]:
    """Games by name (profile_game.py says which), with at least these coalitions of each on record."""
    spec, worker = game_spec(experiment), GamesWorker(experiment)
    make_worker: MakeWorker = (lambda _: worker.on(loaded)) if isinstance(pool, InProcess) else worker
    games = {
        name: open_game(ledger, name, experiment, loaded, game_prompts(experiment, loaded, name)) for name in coalitions
    }
    for name, game in games.items():
        if not name.endswith(REMOVAL):
            game.add_design(design(estimator(spec), seeds(spec)))
    plays = {name: (game, coalitions[name]) for name, game in games.items()}
    record_games(plays, pool, make_worker, report.advance, spec.block_size)
    return games


def _assessed(
    game: RecordedGame, method: Estimator, pair: tuple[Plan, Plan], spec: GameSpec, loaded: LoadedModel
) -> tuple[HeadScores, dict[str, Any]]:
    """Scores from both runs' draws, and how far the two agree."""
    shape = loaded.shape.num_layers, loaded.shape.num_kv_heads
    both = game.utilities(merge_plans(pair).coalitions).mean(axis=1)
    runs = np.split(both, [len(pair[0].coalitions)])
    pooled = method.aggregate(merge_plans(pair), both)
    provenance: dict[str, JSON] = {
        "kind": "sliced Shapley value",
        "task": game.name,
        "spec": spec.model_dump(mode="json"),
        "model": loaded.identity(),
        "coalitions": pooled.evaluations,
    }
    stability = assess(method, pair, (runs[0], runs[1]), seed=spec.seed).to_json()
    per_run = [method.aggregate(p, u).values.reshape(shape).tolist() for p, u in zip(pair, runs, strict=True)]
    said = {**{k: v for k, v in stability.items() if v is not None}, "runs": per_run}
    return HeadScores(pooled.values.reshape(shape), provenance), said


def _in_words(spec: GameSpec) -> str:
    utility = "task metric, greedy" if spec.utility == "metric" else spec.utility.replace("_", " ")
    cache = "uncompressed prefill" if spec.first_token == "prefill" else "compressed cache"
    return f"{utility}, first token from the {cache}"
