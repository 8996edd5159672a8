"""Head scores of an experiment: two independent SSV runs per task, their stability, and the head-removal check.

The games are played on validation prompts. Every evaluated coalition is in the game's ledger (game_folder.py), from
which a killed run continues. Methods use the two runs pooled: twice the draws. Head removal is measured on test samples
(removal.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cokv.cluster import Pool
from cokv.game.plan import BoolArray, merge_plans
from cokv.game.recorded import RecordedGame
from cokv.game.stability import assess
from cokv.model.loading import LoadedModel
from cokv.types import JSON, HeadScores
from suite.heads.block_evaluation import evaluate_games, show_progress
from suite.heads.games import TEST, GamesWorker, game_prompts, game_spec, open_game
from suite.heads.halves import Halves, design, estimator, evaluations, order, plans, seeds
from suite.heads.ledger_scores import known_utilities, reliability_over_prompts
from suite.heads.removal import removal, removal_cuts
from suite.heads.run_scores import STABILITY, store_scores
from suite.run.folder import RunFolder
from suite.run.progress import Reporter, progress
from suite.spec import Experiment, GameSpec
from suite.tasks.benchmarks import task_names


def compute_head_scores(
    experiment: Experiment, loaded: LoadedModel, folder: RunFolder, pool: Pool
) -> dict[str, HeadScores]:
    """The pooled SSV by task. Writes head_scores/<task>.safetensors and stability.json."""
    spec, shape = game_spec(experiment), loaded.shape
    players = shape.num_layers * shape.num_kv_heads
    halves = plans(spec, players)
    tasks, coalitions = spec.tasks or task_names(experiment), order(halves)
    total = len(tasks) * (evaluations(spec, players) + len(removal_cuts(np.zeros(players), spec)) + 1)
    scores: dict[str, HeadScores] = {}
    stability: dict[str, Any] = {}
    with ExitStack() as opened, progress("head game", total) as report:
        play = partial(_play, experiment, loaded, folder.path.parent, opened, pool, report)
        for task, game in play({task: coalitions for task in tasks}).items():
            scores[task], stability[task] = _assessed(game, halves, spec, loaded)
        store_scores(folder, scores)
        removed = removal(play, {task: ssv.values.ravel() for task, ssv in scores.items()}, spec)
    folder.write(
        STABILITY,
        {
            "num_players": players,
            "num_layers": shape.num_layers,
            "num_kv_heads": shape.num_kv_heads,
            "utility": _utility_label(spec),
            "slice_sizes": list(spec.sizes_of(players)),
            "coalitions_per_size": spec.coalitions_per_size,
            "prompts": spec.prompts,
            "tasks": {task: {**stability[task], "head_removal": removed[task]} for task in tasks},
        },
    )
    return scores


def _play(
    experiment: Experiment,
    loaded: LoadedModel,
    runs: Path,
    opened: ExitStack,
    pool: Pool,
    report: Reporter,
    coalitions: Mapping[str, BoolArray],
) -> dict[str, RecordedGame]:
    """Games by name (see games.game_prompts), with at least these coalitions of each on record.

    They stay open, and locked, as long as `opened`.
    """
    spec, device, games = game_spec(experiment), experiment.model.device, {}
    for name in coalitions:
        prompts = game_prompts(experiment, loaded, name)
        _, games[name] = opened.enter_context(open_game(runs, name, loaded, device, prompts, spec))
        if not name.endswith(TEST):
            games[name].add_design(design(estimator(spec, games[name].num_players), seeds(spec)))
    evaluate_games(
        {name: (game, coalitions[name]) for name, game in games.items()},
        pool,
        GamesWorker(experiment).for_pool(pool, loaded),
        lambda _: show_progress(report.advance),
        spec.block_size,
    )
    return games


def _assessed(
    game: RecordedGame, halves: Halves, spec: GameSpec, loaded: LoadedModel
) -> tuple[HeadScores, dict[str, Any]]:
    """Scores from both halves' draws, and how far the two agree."""
    shape, method = (loaded.shape.num_layers, loaded.shape.num_kv_heads), estimator(spec, game.num_players)
    utilities = known_utilities(game, halves[0]), known_utilities(game, halves[1])
    pooled = method.aggregate(merge_plans(halves), np.concatenate(utilities))
    stability = assess(method, halves, utilities, seed=spec.seed).to_json()
    stability["prompt_reliability"] = reliability_over_prompts(method, game, halves, spec.seed)
    evidence: dict[str, JSON] = {"largest": float(pooled.values.max()), "mae": stability["mae"]}
    if stability["prompt_reliability"] is not None:
        evidence["prompt_reliability"] = stability["prompt_reliability"]
    provenance: dict[str, JSON] = {
        "kind": "sliced Shapley value",
        "task": game.name,
        "spec": spec.model_dump(mode="json"),
        "model": loaded.identity(),
        "coalitions": pooled.evaluations,
        "evidence": {**evidence, "reliability": stability["split_half"], "spearman_of_runs": stability["spearman"]},
    }
    runs = [method.aggregate(p, u).values.reshape(shape).tolist() for p, u in zip(halves, utilities, strict=True)]
    defined = {name: value for name, value in stability.items() if value is not None}
    return HeadScores(pooled.values.reshape(shape), provenance), {**defined, "runs": runs}


def _utility_label(spec: GameSpec) -> str:
    utility = "task metric, greedy" if spec.utility == "metric" else spec.utility.replace("_", " ")
    cache = "uncompressed prefill" if spec.first_token == "prefill" else "compressed cache"
    return f"{utility}, first token from the {cache}"
