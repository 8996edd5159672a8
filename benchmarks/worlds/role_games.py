"""Games whose players have known roles, and their exact scores by every way to score players.

The roles are those that distinguish scores: a player that alone carries the answer, two that are needed together
(complements), two that can replace each other (substitutes), one that spoils an answer (harmful), and ones that change
nothing (null). worlds.planted builds a transformer whose heads have these roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cokv.game.exact import all_coalitions, exact_shapley, exact_sliced_shapley
from cokv.game.plan import BoolArray, Game
from cokv.types import FloatArray


@dataclass(frozen=True, eq=False)
class RoleGame:
    """A game and the role of each of its players. Calling it evaluates coalitions."""

    name: str
    roles: tuple[str, ...]
    utility: Game

    @property
    def num_players(self) -> int:
        return len(self.roles)

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        return self.utility(coalitions)


def carrier() -> RoleGame:
    """One player has the answer; the others change nothing."""
    return RoleGame("carrier", ("carrier", "null", "null", "null"), lambda s: np.asarray(s[:, 0], dtype=np.float64))


def complements() -> RoleGame:
    """Two players have half of the answer each, and a half is worth nothing."""
    roles = ("complement", "complement", "null", "null")
    return RoleGame("complements", roles, lambda s: np.asarray(s[:, 0] & s[:, 1], dtype=np.float64))


def substitutes() -> RoleGame:
    """Two players have the answer, and either of them is enough."""
    roles = ("substitute", "substitute", "null", "null")
    return RoleGame("substitutes", roles, lambda s: np.asarray(s[:, 0] | s[:, 1], dtype=np.float64))


def spoiled() -> RoleGame:
    """One player has the answer, and another one overrides it."""
    roles = ("carrier", "harmful", "null", "null")
    return RoleGame("spoiled", roles, lambda s: np.asarray(s[:, 0] & ~s[:, 1], dtype=np.float64))


EVERYTHING_ROLES = (
    "carrier",
    "complement",
    "complement",
    "substitute",
    "substitute",
    "harmful",
    "onlooker",
    "null",
)


def everything() -> RoleGame:
    """The mean of the four games over eight players: the carrier is the same in the first and the last; the onlooker,
    a head that attends the answer and writes nothing, is a null player too.
    """

    def utility(s: BoolArray) -> FloatArray:
        return np.asarray(everything_by_question(s).mean(axis=1))

    return RoleGame("everything", EVERYTHING_ROLES, utility)


def everything_by_question(s: BoolArray) -> FloatArray:
    """Utilities of `everything` by kind of question [R, 4]: carrier, complements, substitutes, spoiled."""
    return np.stack([s[:, 0], s[:, 1] & s[:, 2], s[:, 3] | s[:, 4], s[:, 0] & ~s[:, 5]], axis=1).astype(np.float64)


WORLDS = (carrier, complements, substitutes, spoiled, everything)


def views(game: Game, num_players: int, slice_sizes: Sequence[int]) -> dict[str, FloatArray]:
    """Exact scores [num_players] by each way to score players.

    leave_one_out: U(N) - U(N without i). alone: U({i}) - U(empty), a player by itself, as in scores of one head at a
    time. sliced: SSV. shapley: the Shapley value.
    """
    n = num_players
    utility_of = dict(zip((row.tobytes() for row in all_coalitions(n)), game(all_coalitions(n)), strict=True))

    def recorded(coalitions: BoolArray) -> FloatArray:
        return np.array([utility_of[row.tobytes()] for row in coalitions])

    singles = np.eye(n, dtype=np.bool_)
    nobody, everybody = np.zeros((1, n), dtype=np.bool_), np.ones((1, n), dtype=np.bool_)
    return {
        "leave_one_out": recorded(everybody) - recorded(~singles),
        "alone": recorded(singles) - recorded(nobody),
        "sliced": exact_sliced_shapley(recorded, n, slice_sizes),
        "shapley": exact_shapley(recorded, n),
    }
