"""Head scores of a game with their full provenance (game, estimator, errors, stability), and the same as plain JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from cokv.game.plan import json_numbers
from cokv.game.recorded import RecordedGame
from cokv.types import JSON, FloatArray, HeadScores
from suite.errors import SuiteError
from suite.heads.halves import describe_estimator
from suite.heads.ledger_scores import GameScores

KINDS = {"sliced": "sliced Shapley value", "leave_one_out": "leave-one-out", "exact": "exact Shapley value"}


def head_scores(game: RecordedGame, scores: GameScores, **facts: JSON) -> HeadScores:
    """Scores [num_layers, num_kv_heads] of a game over KV heads. The provenance holds errors, intervals and game."""
    shape = game.identity.get("shape")
    if not isinstance(shape, list) or len(shape) != 2:
        raise SuiteError(f"game {game.name!r} has players of shape {shape}, expected [num_layers, num_kv_heads]")
    estimator = describe_estimator(scores.estimator)
    provenance: dict[str, JSON] = {
        "kind": KINDS.get(str(estimator["name"]), "Shapley value"),
        "task": game.identity.get("task"),
        "estimator": estimator,
        "evaluations": scores.estimate.evaluations,
        "draws": [plan.num_draws for plan in scores.halves],
        "game": game.identity,
        "game_hash": game.hash,
        "standard_error": json_numbers(scores.estimate.standard_error),
        **_stability(scores),
        **facts,
    }
    rows, columns = (int(str(side)) for side in shape)
    return HeadScores(scores.estimate.values.reshape(rows, columns), provenance)


def _stability(scores: GameScores) -> dict[str, JSON]:
    """The stability of two halves; empty for one half."""
    if scores.stability is None:
        return {}
    facts = {k: v for k, v in scores.stability.to_json().items() if k not in ("num_players", "stop") and v is not None}
    runs: list[JSON] = [json_numbers(run) for run in scores.runs]
    if scores.prompt_reliability is not None:
        facts["prompt_reliability"] = scores.prompt_reliability
    return {**facts, "mae_below_threshold": scores.stability.stop, "runs": runs}


def as_json(scores: HeadScores) -> dict[str, Any]:
    """One row per head, layer-major, and the rest of the provenance. Unknown numbers are absent."""
    facts: dict[str, Any] = dict(scores.provenance)
    errors, intervals, runs = (facts.pop(name, None) for name in ("standard_error", "interval", "runs"))
    heads = []
    for player, score in enumerate(scores.values.reshape(-1)):
        layer, head = divmod(player, scores.num_kv_heads)
        row: dict[str, Any] = {"layer": layer, "kv_head": head, "score": float(score)}
        if isinstance(errors, list) and errors[player] is not None:
            row["standard_error"] = errors[player]
        if isinstance(intervals, list) and None not in intervals[player]:
            row["low"], row["high"] = intervals[player]
        if isinstance(runs, list):
            row["runs"] = [run[player] for run in runs]
        heads.append(row)
    return {**facts, "heads": heads}


def intervals_of(scores: HeadScores) -> FloatArray | None:
    """[num_layers, num_kv_heads, 2], NaN where undefined; None when the profile has none."""
    stored: Any = scores.provenance.get("interval")
    if not isinstance(stored, list) or np.shape(stored) != (scores.values.size, 2):
        return None
    return np.array(stored, dtype=np.float64).reshape(*scores.values.shape, 2)
