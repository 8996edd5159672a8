"""A whole game: all its 2^n coalitions evaluated and recorded, and read back as a table. n <= 20.

It gives exact Shapley values, and the error of any estimator, run again and again without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from cokv.game.exact import all_coalitions, all_utilities
from cokv.game.plan import BoolArray, Game
from cokv.game.recorded import RecordedGame
from cokv.types import CokvError, FloatArray


def in_blocks(num_players: int, block_size: int) -> Iterator[BoolArray]:
    """Every coalition once, as bool [<= block_size, n]. The last player changes fastest, so that a block shares the
    lower layers, whose work a decoder does once.
    """
    coalitions = all_coalitions(num_players)[:, ::-1]
    for start in range(0, len(coalitions), block_size):
        yield coalitions[start : start + block_size]


def evaluate_whole(
    per_prompt: Callable[[BoolArray], FloatArray],
    recorded: RecordedGame,
    block_size: int = 256,
    go_on: Callable[[int, int], bool] = lambda recorded, total: True,
    part: tuple[int, int] = (0, 1),
) -> int:
    """Evaluates the missing coalitions, block by block, and returns how many are recorded.

    per_prompt: bool [R, n] -> [R, num_prompts]. A block is recorded as soon as it is evaluated; of one that is recorded
    in part the rest is evaluated. go_on(recorded, total) is called after each block; False ends the work, which a later
    call resumes. part (i, k): only every k-th block from the i-th, for k processes.
    """
    if block_size < 1:
        raise CokvError(f"block_size = {block_size}, expected at least 1")
    total = 2**recorded.num_players
    for block in islice(in_blocks(recorded.num_players, block_size), part[0], None, part[1]):
        recorded_rows = recorded.known(block)
        if recorded_rows.all():
            continue
        recorded.record(block[~recorded_rows], per_prompt(block)[~recorded_rows], origin="whole game")
        if not go_on(len(recorded), total):
            break
    return len(recorded)


@dataclass(frozen=True, eq=False)
class WholeGame:
    """Utilities of every coalition on every prompt, by coalition number (see cokv.game.exact): [2^n, num_prompts].

    Called, it is a game: the mean over prompts, looked up.
    """

    name: str
    num_players: int
    per_prompt: FloatArray

    @classmethod
    def of(cls, recorded: RecordedGame) -> WholeGame:
        missing = 2**recorded.num_players - len(recorded)
        if missing:
            raise CokvError(
                f"game {recorded.name!r} has {len(recorded)} of {2**recorded.num_players} coalitions, expected all; "
                f"evaluate the other {missing} first (benchmarks/exact_game.py evaluate goes on where it was)"
            )
        table = recorded.utilities(all_coalitions(recorded.num_players))
        return cls(recorded.name, recorded.num_players, table)

    @classmethod
    def played(cls, name: str, game: Game, num_players: int) -> WholeGame:
        """By playing a cheap game."""
        return cls(name, num_players, all_utilities(game, num_players)[:, None])

    def prompts(self, indices: Sequence[int]) -> WholeGame:
        """The game over some of its prompts."""
        return WholeGame(self.name, self.num_players, self.per_prompt[:, list(indices)])

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        numbers = coalitions.astype(np.int64) @ (1 << np.arange(self.num_players, dtype=np.int64))
        return np.asarray(self.per_prompt[numbers].mean(axis=1))
