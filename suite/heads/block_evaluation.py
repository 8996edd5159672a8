"""Evaluates games into their ledger: known coalitions stay, missing ones are evaluated in blocks, here or by workers.

Blocks are consecutive coalitions of the plan, the same whatever is recorded and whoever evaluates: a coalition always
meets the same others in its batch, so its utility is the same to the last bit, however often a run was killed. A ledger
takes whole blocks, so only an extended or merged game has one that is known in part; then just the rest is evaluated.

Blocks come back in any order. Stop rules look at a plan's *prefix*, the blocks from the first on without a gap, and at
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
from cokv.types import FloatArray

BLOCK = 96  # coalitions evaluated, and recorded, at a time: the more, the more work they share

Block: TypeAlias = tuple[str, int, BoolArray]
"""What a worker gets: a game's name, the block's number, the coalitions [R, num_players] of it that are missing."""
Answer: TypeAlias = tuple[str, FloatArray]
"""What it returns: which process it is, and utilities [R, num_prompts]."""
Watch: TypeAlias = Callable[[int], bool]
"""Called with the length of each new prefix, in distinct coalitions; returns whether to stop."""


def blocks_of(coalitions: BoolArray, size: int = BLOCK) -> list[BoolArray]:
    """Distinct coalitions [R, num_players] in the order of the plan, `size` at a time."""
    rows = distinct(coalitions)[0]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def evaluate_games(
    games: Mapping[str, tuple[RecordedGame, BoolArray]],
    pool: Pool,
    make_worker: MakeWorker,
    watch: Callable[[str], Watch],
    block_size: int = BLOCK,
) -> None:
    """Evaluates and records the missing coalitions of several games with one set of workers, until a watch stops it.

    games: by name, a game and its plan's coalitions [R, num_players]. watch(name): the watch of that game.
    """
    blocks: list[Block] = []
    prefixes = {}
    for name, (game, coalitions) in games.items():
        planned = blocks_of(coalitions, block_size)
        missing = [block[~game.known(block)] for block in planned]
        prefixes[name] = _Prefix([len(block) for block in planned], [not len(rows) for rows in missing], watch(name))
        blocks += [(name, number, rows) for number, rows in enumerate(missing) if len(rows)]
    if any(prefix.advance() for prefix in prefixes.values()):
        return
    results = pool.map_blocks(make_worker, blocks)
    try:
        for index, (origin, utilities) in results:
            name, number, rows = blocks[index]
            games[name][0].record(rows, utilities, origin)
            prefixes[name].complete[number] = True
            if prefixes[name].advance():
                break
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()


class _Prefix:
    """How many blocks, from the first on, are recorded without a gap. The watch is called once for each."""

    def __init__(self, sizes: list[int], complete: list[bool], watch: Watch) -> None:
        self.ends, self.complete, self.watch, self.blocks = np.cumsum(sizes), complete, watch, 0

    def advance(self) -> bool:
        """Whether to stop."""
        while self.blocks < len(self.complete) and self.complete[self.blocks]:
            self.blocks += 1
            if self.watch(int(self.ends[self.blocks - 1])):
                return True
        return False


def show_progress(advance: Callable[[int], None]) -> Watch:
    """A watch that reports each newly evaluated coalition and never stops."""
    reported = 0

    def watch(evaluated: int) -> bool:
        nonlocal reported
        advance(evaluated - reported)
        reported = evaluated
        return False

    return watch
