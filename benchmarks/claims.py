"""How far simpler scores agree with the exact Shapley value of a whole game, and what they do not see."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from curves import paper_sizes
from worlds.role_games import views
from worlds.whole import WholeGame

from cokv.game.exact import exact_shapley, exact_sliced_shapley
from cokv.game.stability import spearman
from cokv.types import FloatArray

TINY = 1e-12  # what rounding makes of 0


def scores_of(game: WholeGame) -> dict[str, FloatArray]:
    """Exact scores [n]: leave_one_out, alone, sliced (the paper's sizes), shapley, and SSV at each single size."""
    n = game.num_players
    single = {f"sliced, size {size} only": exact_sliced_shapley(game, n, (size,)) for size in paper_sizes(n)}
    return views(game, n, paper_sizes(n)) | single


def claims(game: WholeGame) -> dict[str, Any]:
    """All of it, ready for JSON. A measure that a game does not define is absent."""
    n = game.num_players
    scores = scores_of(game)
    shapley = scores["shapley"]
    all_players, no_player = np.ones((1, n), dtype=np.bool_), np.zeros((1, n), dtype=np.bool_)
    worth = shapley > 0.5 / n
    return {
        "utility_of_all": float(game(all_players)[0]),
        "utility_of_none": float(game(no_player)[0]),
        "scores": {name: values.tolist() for name, values in scores.items()},
        "agreement_with_shapley": {name: _agreement(values, shapley) for name, values in scores.items()},
        "mean_level": {name: float(values.mean()) for name, values in scores.items()},
        "heads": {
            "worth_more_than_half_a_share": int(worth.sum()),
            "of_these_not_seen_by_leave_one_out": int(np.sum(worth & (scores["leave_one_out"] < TINY))),
            "of_these_not_seen_alone": int(np.sum(worth & (scores["alone"] < TINY))),
            "harmful": int(np.sum(shapley < -TINY)),
            "harmful_seen_by_leave_one_out": int(np.sum((shapley < -TINY) & (scores["leave_one_out"] < -TINY))),
        },
        "prompts": _between_prompts(game),
    }


def _agreement(values: FloatArray, shapley: FloatArray) -> dict[str, float]:
    """same_order: of the pairs of players with distinct Shapley values, the share that is ordered alike; a tie
    counts half. same_sign: the share of players.
    """
    pairs = [
        np.sign(values[i] - values[j]) * np.sign(shapley[i] - shapley[j])
        for i, j in combinations(range(len(values)), 2)
        if abs(shapley[i] - shapley[j]) > TINY
    ]
    rank = spearman(values, shapley)
    agreement = {"same_sign": float(np.mean(_sign(values) == _sign(shapley)))}
    if pairs:
        agreement["same_order"] = float((np.mean(pairs) + 1.0) / 2.0)
    return agreement | ({"spearman": rank} if rank is not None else {})


def _sign(values: FloatArray) -> FloatArray:
    return np.where(np.abs(values) < TINY, 0.0, np.sign(values))


def _between_prompts(game: WholeGame) -> dict[str, Any]:
    """How alike the Shapley values of single prompts are: what a profile of few prompts cannot know."""
    n, count = game.num_players, game.per_prompt.shape[1]
    each = [exact_shapley(game.prompts([prompt]), n) for prompt in range(count)]
    ranks = [rank for a, b in combinations(each, 2) if (rank := spearman(a, b)) is not None]
    record: dict[str, Any] = {"count": count, "shapley": [values.tolist() for values in each]}
    return record | ({"mean_spearman": float(np.mean(ranks))} if ranks else {})
