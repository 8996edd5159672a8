"""Planted worlds: games in which it is known what every player is, and what each way to score players says of them.

The roles are those that tell scores apart: a player that alone carries the answer, two that are needed together
(complements), two that stand for each other (substitutes), one that spoils an answer (harmful), and ones that change
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
    """One player has the answer, and another one talks over it."""
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
    """The mean of the four worlds over eight players: the carrier is the same in the first and the last, an onlooker
    (who sees the answer and says nothing) is a null player by another name.
    """

    def utility(s: BoolArray) -> FloatArray:
        return np.asarray(everything_by_question(s).mean(axis=1))

    return RoleGame("everything", EVERYTHING_ROLES, utility)


def everything_by_question(s: BoolArray) -> FloatArray:
    """Utilities of `everything` by kind of question [R, 4]: carrier, complements, substitutes, spoiled."""
    return np.stack([s[:, 0], s[:, 1] & s[:, 2], s[:, 3] | s[:, 4], s[:, 0] & ~s[:, 5]], axis=1).astype(np.float64)


WORLDS = (carrier, complements, substitutes, spoiled, everything)


def views(game: Game, num_players: int, slice_sizes: Sequence[int]) -> dict[str, FloatArray]:
    """What each way to score players says, every score [num_players] and without sampling error.

    leave_one_out: U(N) - U(N without i). alone: U({i}) - U(empty), a player judged by itself, as scores that look at
    one head at a time do. sliced: SSV. shapley: the Shapley value.
    """
    n = num_players
    known = dict(zip((row.tobytes() for row in all_coalitions(n)), game(all_coalitions(n)), strict=True))

    def recorded(coalitions: BoolArray) -> FloatArray:
        return np.array([known[row.tobytes()] for row in coalitions])

    one = np.eye(n, dtype=np.bool_)
    nobody, everybody = np.zeros((1, n), dtype=np.bool_), np.ones((1, n), dtype=np.bool_)
    return {
        "leave_one_out": recorded(everybody) - recorded(~one),
        "alone": recorded(one) - recorded(nobody),
        "sliced": exact_sliced_shapley(recorded, n, slice_sizes),
        "shapley": exact_shapley(recorded, n),
    }
