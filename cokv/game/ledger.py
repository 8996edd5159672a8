"""The record of evaluated coalitions: one SQLite file, to which games add blocks of utilities.

A *game* is defined by its identity: everything that can change a utility (model, prompts, window, versions), as JSON.
A file holds one game per name; another identity under the same name is refused, and the error names what differs.
A row is a coalition with its utility on every prompt, float64, bit for bit.

A block is one transaction, on disk before `record` returns: a kill leaves whole blocks. The file is an ordinary SQLite
database with a rollback journal, so a copy of it (while nobody writes) is a backup. When and by whom a block was
evaluated is stored too, but never compared. Knows no model, and not which coalitions to evaluate; *designs* say which
were planned, as JSON of the caller's, so that scores can be computed from the file alone.
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
    """Numbers of games and coalitions that a merge added."""

    games: int
    coalitions: int
    known: int  # coalitions that the ledger held already


class Ledger(Database):
    """An open ledger file and its games."""

    def games(self) -> list[RecordedGame]:
        """The games of the file, in the order in which they were added."""
        rows = self.rows("SELECT id, name, identity, num_players, num_prompts FROM game ORDER BY id")
        return [RecordedGame(self, key, name, json.loads(text), n, k) for key, name, text, n, k in rows]

    def game(self, name: str, identity: Mapping[str, JSON], num_players: int, num_prompts: int) -> RecordedGame:
        """The game of this name, added if new. Raises CokvError if the file has another game of this name."""
        full_identity = {**identity, "num_players": num_players, "num_prompts": num_prompts}
        with self.transaction():
            return self._adopt(name, full_identity, "this run")[0]

    def merge(self, paths: Sequence[str | os.PathLike[str]], tolerance: float = 0.0) -> MergeCounts:
        """Adds the games and coalitions of other ledgers, all of them or none.

        Games are matched by name. Raises CokvError where a coalition has two utilities further apart than `tolerance`;
        within it, the utility that this file already holds stays.
        """
        games = coalitions = known = 0
        with self.transaction():
            for path in paths:
                with Ledger(path, create=False) as source:
                    for source_game in source.games():
                        game, new = self._adopt(source_game.name, source_game.identity, str(path))
                        games += new
                        for (origin, written), keys, utilities in source_game.blocks():
                            added = game.insert(keys, utilities, origin, written, str(path), tolerance)
                            coalitions, known = coalitions + added, known + len(keys) - added
                        for design in source_game.designs():
                            game.insert_design(design)
        return MergeCounts(games, coalitions, known)

    def _adopt(self, name: str, identity: Mapping[str, JSON], source: str) -> tuple[RecordedGame, bool]:
        """The game and whether it is new; inside a transaction."""
        existing = {game.name: game for game in self.games()}
        if name in existing:
            require_same(f"{self.path}, game {name!r}", existing[name].identity, source, identity)
            return existing[name], False
        self.connection.execute(
            "INSERT INTO game (name, identity, num_players, num_prompts) VALUES (?, ?, ?, ?)",
            (name, canonical(identity), identity["num_players"], identity["num_prompts"]),
        )
        return self._adopt(name, identity, source)[0], True
