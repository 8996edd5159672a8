"""The record of evaluated coalitions: one SQLite file, to which games add blocks of utilities.

A *game* is what its identity says: everything that can change a utility (model, prompts, window, versions), as JSON.
Under a name a file holds one game; another identity under the same name is refused, and the error names what differs.
A row is a coalition with its utility on every prompt, float64, bit for bit.

A block is one transaction, on disk before `record` returns: a kill leaves whole blocks. The file is an ordinary SQLite
database with a rollback journal, so a copy of it (while nobody writes) is a backup. When and by whom a block was
evaluated stands beside it and is no part of what is compared. Knows no model, and not which coalitions are wanted;
*designs* say which were planned, in the caller's own words, so that scores can be made again from the file alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cokv.game.database import Database
from cokv.game.identity import canonical, require_same
from cokv.game.recorded import RecordedGame
from cokv.types import JSON


@dataclass(frozen=True)
class MergeCounts:
    """What a merge added, and what it found already there."""

    games: int
    coalitions: int
    known: int


class Ledger(Database):
    """An open ledger file and its games."""

    def games(self) -> list[RecordedGame]:
        """The games of the file, in the order they came."""
        rows = self.rows("SELECT id, name, identity, num_players, num_prompts FROM game ORDER BY id")
        return [RecordedGame(self, key, name, json.loads(text), n, k) for key, name, text, n, k in rows]

    def game(self, name: str, identity: Mapping[str, JSON], num_players: int, num_prompts: int) -> RecordedGame:
        """The game of this name, made if new, refused if it is another one."""
        whole = {**identity, "num_players": num_players, "num_prompts": num_prompts}
        with self.transaction():
            return self._adopt(name, whole, "this run")[0]

    def merge(self, paths: Sequence[str | os.PathLike[str]], tolerance: float = 0.0) -> MergeCounts:
        """Adds what other ledgers hold, all of it or nothing.

        Games are matched by name. One coalition with two utilities further apart than `tolerance` is an error; within
        it, what was here first stays.
        """
        games = coalitions = known = 0
        with self.transaction():
            for path in paths:
                with Ledger(path, create=False) as other:
                    for theirs in other.games():
                        mine, new = self._adopt(theirs.name, theirs.identity, str(path))
                        games += new
                        for (origin, written), keys, utilities in theirs.blocks():
                            added = mine.insert(keys, utilities, origin, written, str(path), tolerance)
                            coalitions, known = coalitions + added, known + len(keys) - added
                        for design in theirs.designs():
                            mine.insert_design(design)
        return MergeCounts(games, coalitions, known)

    def _adopt(self, name: str, identity: Mapping[str, JSON], source: str) -> tuple[RecordedGame, bool]:
        """The game and whether it is new; inside a transaction."""
        found = {game.name: game for game in self.games()}
        if name in found:
            require_same(f"{self.path}, game {name!r}", found[name].identity, source, identity)
            return found[name], False
        self.connection.execute(
            "INSERT INTO game (name, identity, num_players, num_prompts) VALUES (?, ?, ?, ?)",
            (name, canonical(identity), identity["num_players"], identity["num_prompts"]),
        )
        return self._adopt(name, identity, source)[0], True
