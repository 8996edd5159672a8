"""Exact values by evaluating all 2^n coalitions: the oracle the estimators are tested against. n <= 20.

Coalition number m holds player i when bit i of m is set, so the complement of m is 2^n - 1 - m: the utilities read
backwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cokv.game.plan import BoolArray, Game, checked_players, checked_utilities
from cokv.types import CokvError, FloatArray, IntArray

MAX_PLAYERS = 20


def all_coalitions(num_players: int) -> BoolArray:
    """Every coalition, by number: bool [2^n, n]."""
    numbers = np.arange(2 ** _exact_players(num_players), dtype=np.int64)
    members: BoolArray = (numbers[:, None] >> np.arange(num_players)) & 1 == 1
    return members


def all_utilities(game: Game, num_players: int, batch_size: int = 65536) -> FloatArray:
    """Utility of every coalition, by number: float64 [2^n]. Each coalition is evaluated exactly once."""
    coalitions = all_coalitions(num_players)
    batches = [coalitions[start : start + batch_size] for start in range(0, len(coalitions), batch_size)]
    return np.concatenate([checked_utilities(game(batch), len(batch)) for batch in batches])


def exact_shapley(game: Game, num_players: int) -> FloatArray:
    """Shapley values [n]: sum over S without i of |S|! (n - |S| - 1)! / n! * (U(S + i) - U(S)).  (Shapley, 1953)"""
    n = _exact_players(num_players)
    utilities = all_utilities(game, n)
    sizes = _coalition_sizes(n)
    weight = np.array([1.0 / (n * math.comb(n - 1, size)) for size in range(n)])
    values = np.empty(n)
    for player in range(n):
        halves = utilities.reshape(-1, 2, 2**player)  # axis 1 is the player's bit
        without = sizes.reshape(-1, 2, 2**player)[:, 0]
        values[player] = np.sum(weight[without] * (halves[:, 1] - halves[:, 0]))
    return values


def exact_sliced_shapley(game: Game, num_players: int, slice_sizes: Sequence[int]) -> FloatArray:
    """SSV [n]: mean over sizes of the mean of U(S) - U(N without S) over all S of that size that hold the player."""
    n = _exact_players(num_players)
    utilities = all_utilities(game, n)
    contributions = utilities - utilities[::-1]
    coalitions, sizes = all_coalitions(n), _coalition_sizes(n)
    means = []
    for size in slice_sizes:
        if not 1 <= size <= n:
            raise CokvError(f"slice size {size} in a game of {n} players, expected 1 to {n}")
        of_size = sizes == size
        means.append(contributions[of_size] @ coalitions[of_size] / math.comb(n - 1, size - 1))
    return np.asarray(np.mean(means, axis=0))


def _coalition_sizes(num_players: int) -> IntArray:
    return np.bitwise_count(np.arange(2**num_players, dtype=np.uint64)).astype(np.int64)


def _exact_players(num_players: int) -> int:
    if checked_players(num_players) > MAX_PLAYERS:
        raise CokvError(
            f"exact values of {num_players} players need 2^{num_players} evaluations, expected at most {MAX_PLAYERS} "
            "players; use PermutationSampling or SlicedShapley of cokv.game.estimators"
        )
    return int(num_players)
