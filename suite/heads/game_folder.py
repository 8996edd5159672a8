"""Where games are kept: `runs/games/<task>-<hash8>/`, one folder per game, whoever plays it.

A folder holds `spec.json` (the game's identity, which the hash covers: everything that can change a utility, this
project's code included) and the ledger, `game.sqlite`; `cokv profile ssv` adds its newest scores. `cokv reproduce`,
`cokv profile ssv` and `cokv heads masking` all play here, so that the same game evaluates no coalition twice. One
process at a time writes a game.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cokv.game.ledger import Ledger
from cokv.game.recorded import RecordedGame
from cokv.types import JSON
from suite.run.folder import RunFolder

GAMES, LEDGER = "games", "game.sqlite"


@contextmanager
def opened_game(
    runs: Path, name: str, identity: Mapping[str, JSON], players: int, prompts: int
) -> Iterator[tuple[RunFolder, RecordedGame]]:
    """The folder of a game and its record, locked. name: the task, with `/test` where the prompts are test samples."""
    folder = RunFolder(runs / GAMES, name.replace("/", "-"), dict(identity))
    folder.open()
    with folder.lock(), Ledger(folder.path / LEDGER) as ledger:
        yield folder, ledger.game(name, identity, players, prompts)
