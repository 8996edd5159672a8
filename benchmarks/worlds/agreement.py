"""Whether two utilities rank the heads alike: correlations of scores from the same coalitions, and their noise ceiling.

Noise bounds the correlation between two utilities: with reliabilities a and b of the scores, even utilities that rank
heads exactly alike correlate by about sqrt(a * b). So each utility's split-half reliability is reported too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cokv.game.plan import Estimator, Game, Plan, distinct
from cokv.game.stability import spearman, split_half_reliability
from cokv.game.utility import HeadGame
from cokv.types import JSON, CokvError, FloatArray


@dataclass(frozen=True, eq=False)
class Agreement:
    """Several utilities on the same coalitions. None where a measure is not defined, as for constant scores."""

    scores: dict[str, FloatArray]  # by utility: [num_players]
    spearman: dict[tuple[str, str], float | None]  # of two utilities' scores, each pair once
    reliability: dict[str, float | None]  # split-half, stepped up to all draws
    top_shared: dict[tuple[str, str], float]  # share of players in both top quarters
    num_coalitions: int

    def to_json(self) -> dict[str, JSON]:
        pairs: list[JSON] = [
            {"utilities": [*pair], "spearman": value, "top_quarter_shared": self.top_shared[pair]}
            for pair, value in self.spearman.items()
        ]
        return {
            "scores": {name: [float(v) for v in values] for name, values in self.scores.items()},
            "reliability": dict(self.reliability),
            "pairs": pairs,
            "coalitions": self.num_coalitions,
        }


def agreement(games: Mapping[str, Game], estimator: Estimator, num_players: int, seed: int) -> Agreement:
    """Plays the same coalitions of one plan in every game: games of the same prompts with different utilities."""
    if len(games) < 2:
        raise CokvError(f"{len(games)} utilities to compare, expected two or more; name them all")
    plan = estimator.plan(num_players, seed)
    coalitions, inverse = distinct(plan.coalitions)
    return agreement_of({name: game(coalitions)[inverse] for name, game in games.items()}, estimator, plan, seed)


def agreement_of(utilities: Mapping[str, FloatArray], estimator: Estimator, plan: Plan, seed: int) -> Agreement:
    """The same from known utilities [K], in the plan's order."""
    names = list(utilities)
    scores = {name: estimator.aggregate(plan, utilities[name]).values for name in names}
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return Agreement(
        scores,
        {(a, b): spearman(scores[a], scores[b]) for a, b in pairs},
        {name: split_half_reliability(estimator, plan, utilities[name], seed) for name in names},
        {(a, b): _top_shared(scores[a], scores[b]) for a, b in pairs},
        len(distinct(plan.coalitions)[0]),
    )


def utility_agreement(game: HeadGame, estimator: Estimator, seed: int) -> Agreement:
    """All four utilities of one game; its prompts must have an answer."""
    games: dict[str, Game] = {
        "metric": replace(game, utility="metric"),
        "exact_match": replace(game, utility="exact_match"),
        "probability": replace(game, utility="probability"),
        "log_likelihood": replace(game, utility="log_likelihood"),
    }
    return agreement(games, estimator, game.num_players, seed)


def first_token_effect(game: HeadGame, estimator: Estimator, seed: int) -> Agreement:
    """How much the ranking changes when the first answer token is taken from the masked cache instead of the prefill.

    Two names, "prefill" and "compressed"; the game's own `first_token` does not matter.
    """
    games: dict[str, Game] = {
        "prefill": replace(game, first_token="prefill"),
        "compressed": replace(game, first_token="compressed"),
    }
    return agreement(games, estimator, game.num_players, seed)


def _top_shared(first: FloatArray, second: FloatArray) -> float:
    count = max(1, len(first) // 4)
    return len(_top(first, count) & _top(second, count)) / count


def _top(scores: FloatArray, count: int) -> set[int]:
    return {int(player) for player in np.argsort(-scores, kind="stable")[:count]}
