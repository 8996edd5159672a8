"""Evaluates a game into its ledger: what is known stays, what is missing is worked on in blocks, here or by workers.

Blocks are consecutive coalitions of the plan, the same whatever is recorded and whoever works: a coalition always meets
the same others in its batch, so its utility is the same to the last bit, however often a run was killed. A ledger takes
whole blocks, so only an extended or merged game has one that is known in part; then just the rest is evaluated.

Blocks come back in any order. Rules look at the plan's *prefix*, the blocks from the first on without a gap, and at
every prefix in turn, recorded earlier or now: a run stops where an undisturbed run of one process would, except where
the clock decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from cokv.cluster import MakeWorker, Pool
from cokv.game.plan import BoolArray, distinct
from cokv.game.recorded import RecordedGame

BLOCK = 96  # coalitions evaluated, and recorded, at a time: the more, the more work they share

Watch: TypeAlias = Callable[[int], bool]
"""Told how many coalitions of the plan are there without a gap; answers whether to stop."""


def blocks_of(coalitions: BoolArray, size: int = BLOCK) -> list[BoolArray]:
    """Distinct coalitions [R, num_players] in the order of the plan, `size` at a time."""
    rows = distinct(coalitions)[0]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def missing(game: RecordedGame, coalitions: BoolArray, size: int = BLOCK) -> list[tuple[int, BoolArray]]:
    """(number of a block, what of it is not recorded), of the blocks that are not known whole."""
    unknown = [block[~game.known(block)] for block in blocks_of(coalitions, size)]
    return [(number, rows) for number, rows in enumerate(unknown) if len(rows)]


def record_games(
    plays: Mapping[str, tuple[RecordedGame, BoolArray]],
    pool: Pool,
    make_worker: MakeWorker,
    advance: Callable[[int], None],
    block_size: int = BLOCK,
) -> None:
    """Evaluates and records what is missing of several games, by name, with one set of workers.

    A worker gets (name, (number, coalitions)) and gives (who it is, utilities [coalitions, prompts]). `advance` is told
    how many coalitions are there anew, first those that are recorded already.
    """
    tasks = [(name, block) for name, (game, rows) in plays.items() for block in missing(game, rows, block_size)]
    advance(sum(len(distinct(rows)[0]) for _, rows in plays.values()) - sum(len(rows) for _, (_, rows) in tasks))
    for index, (origin, utilities) in pool.map_blocks(make_worker, tasks):
        name, (_, rows) = tasks[index]
        plays[name][0].record(rows, utilities, origin)
        advance(len(rows))


def record(
    game: RecordedGame,
    coalitions: BoolArray,
    pool: Pool,
    make_worker: MakeWorker,
    watch: Watch | None = None,
    block_size: int = BLOCK,
) -> int:
    """Evaluates and records what is missing of `coalitions`, until done or `watch` says stop.

    A worker gets (number, coalitions) and gives (who it is, utilities [coalitions, prompts]). Returns how many of the
    distinct coalitions, in order, are there without a gap.
    """
    blocks = blocks_of(coalitions, block_size)
    ends = np.cumsum([0, *map(len, blocks)])
    tasks = missing(game, coalitions, block_size)
    there = [True] * len(blocks)
    for number, _ in tasks:
        there[number] = False
    prefix = _Prefix(there, ends, watch)
    if prefix.advance():
        return prefix.coalitions
    results = pool.map_blocks(make_worker, tasks)
    try:
        for task, (origin, utilities) in results:
            index, rows = tasks[task]
            game.record(rows, utilities, origin)
            there[index] = True
            if prefix.advance():
                break
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()
    return prefix.coalitions


class _Prefix:
    """How far the blocks are there without a gap. Each new end is shown to the watch once."""

    def __init__(self, there: list[bool], ends: np.ndarray, watch: Watch | None) -> None:
        self.there, self.ends, self.watch, self.blocks = there, ends, watch, 0

    @property
    def coalitions(self) -> int:
        return int(self.ends[self.blocks])

    def advance(self) -> bool:
        """Whether to stop."""
        while self.blocks < len(self.there) and self.there[self.blocks]:
            self.blocks += 1
            if self.watch is not None and self.watch(self.coalitions):
                return True
        return False
