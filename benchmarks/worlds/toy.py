"""Small games whose Shapley values are known in closed form: for tests, documentation and the estimator benchmark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cokv.game.plan import BoolArray, Game
from cokv.types import FloatArray


@dataclass(frozen=True, eq=False)
class ToyGame:
    """A game with its Shapley values. Calling it evaluates coalitions, so it can be passed as a game."""

    name: str
    num_players: int
    utility: Game
    shapley: FloatArray  # [num_players]

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        return self.utility(coalitions)


def dictator(num_players: int, player: int) -> ToyGame:
    """1 with the dictator, 0 without: everyone else is a null player."""
    return ToyGame(
        "dictator", num_players, lambda s: np.asarray(s[:, player], dtype=np.float64), np.eye(num_players)[player]
    )


def majority(num_players: int) -> ToyGame:
    """1 for more than half of the players, who are all alike: 1/n each."""
    return ToyGame(
        "majority",
        num_players,
        lambda s: np.asarray(2 * s.sum(axis=1) > num_players, dtype=np.float64),
        np.full(num_players, 1.0 / num_players),
    )


def unanimity(num_players: int, carrier: Sequence[int]) -> ToyGame:
    """1 when all members of the carrier are in the coalition: complements, which share equally."""
    members = list(carrier)
    shapley = np.zeros(num_players)
    shapley[members] = 1.0 / len(members)
    return ToyGame("unanimity", num_players, lambda s: np.asarray(s[:, members].all(axis=1), dtype=np.float64), shapley)


def substitutes(num_players: int, group: Sequence[int]) -> ToyGame:
    """1 when any member of the group is in the coalition: they share equally, and leave-one-out is 0."""
    members = list(group)
    shapley = np.zeros(num_players)
    shapley[members] = 1.0 / len(members)
    return ToyGame(
        "substitutes", num_players, lambda s: np.asarray(s[:, members].any(axis=1), dtype=np.float64), shapley
    )


def additive(weights: Sequence[float]) -> ToyGame:
    """The members' weights summed: each is worth its weight, a weight of 0 is a null player."""
    worth = np.asarray(weights, dtype=np.float64)
    return ToyGame("additive", len(worth), lambda s: np.asarray(s @ worth), worth)


def glove(left: int, right: int) -> ToyGame:
    """Pairs of gloves: the first `left` players own a left one, the others a right one; the scarcer is worth more.

    A newcomer completes a pair when those before it hold fewer gloves of its own side than of the other.
    """
    n = left + right

    def share(own_side: int, other_side: int) -> float:
        orders = 0
        for have in range(own_side):
            for opposite in range(have + 1, other_side + 1):
                arrived = have + opposite
                ways = math.comb(own_side - 1, have) * math.comb(other_side, opposite)
                orders += ways * math.factorial(arrived) * math.factorial(n - 1 - arrived)
        return orders / math.factorial(n)

    shapley = np.array([share(left, right)] * left + [share(right, left)] * right)

    def utility(coalitions: BoolArray) -> FloatArray:
        pairs = np.minimum(coalitions[:, :left].sum(axis=1), coalitions[:, left:].sum(axis=1))
        return np.asarray(pairs, dtype=np.float64)

    return ToyGame("glove", n, utility, shapley)


def interactions(num_players: int, seed: int, num_terms: int = 0, largest: int = 4) -> ToyGame:
    """A random sum of unanimity games: lone worth for everyone, and `num_terms` groups worth more, or less, together.

    Every game is such a sum; a group's worth is shared equally by its members, so the answer is known at any number
    of players.
    """
    generator = np.random.default_rng(seed)
    groups = np.eye(num_players, dtype=np.bool_)
    worth = generator.uniform(0.0, 1.0, num_players) ** 3
    extra = np.zeros((num_terms or 2 * num_players, num_players), dtype=np.bool_)
    for row in extra:
        row[generator.permutation(num_players)[: generator.integers(2, min(largest, num_players) + 1)]] = True
    groups = np.concatenate([groups, extra])
    worth = np.concatenate([worth, generator.normal(0.0, 1.0, len(extra))]) / num_players
    sizes = groups.sum(axis=1)

    def utility(coalitions: BoolArray) -> FloatArray:
        present = coalitions.astype(np.float64) @ groups.T.astype(np.float64)
        return np.asarray((present == sizes) @ worth)

    return ToyGame("interactions", num_players, utility, (worth / sizes) @ groups)
