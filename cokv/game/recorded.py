"""One game inside a ledger: which coalitions are known, their utilities, and the adding of blocks."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np

from cokv.game.database import Database
from cokv.game.identity import canonical, digest
from cokv.game.plan import BoolArray
from cokv.types import JSON, CokvError, FloatArray


def pack(coalition: BoolArray) -> bytes:
    """A coalition as bytes, first player in the highest bit."""
    return np.packbits(np.asarray(coalition, dtype=np.bool_)).tobytes()


def bits(key: bytes, num_players: int) -> str:
    """A packed coalition for messages: one 0 or 1 per player."""
    return "".join(f"{byte:08b}" for byte in key)[:num_players]


class RecordedGame:
    """One game's rows. Known coalitions are held in memory, packed, with those that this process records."""

    def __init__(
        self, database: Database, key: int, name: str, identity: dict[str, JSON], num_players: int, num_prompts: int
    ) -> None:
        self.database, self.key, self.name, self.identity = database, key, name, identity
        self.num_players, self.num_prompts = num_players, num_prompts

    @cached_property
    def _known(self) -> dict[bytes, bytes]:
        return dict(self.database.rows("SELECT coalition, utilities FROM utility WHERE game = ?", (self.key,)))

    @property
    def hash(self) -> str:
        """Of the identity: the same game has the same hash everywhere."""
        return digest(self.identity)

    @property
    def digest(self) -> str:
        """Of the identity and every coalition with its utilities; the order of evaluation does not matter."""
        sha256 = hashlib.sha256(canonical(self.identity).encode())
        for coalition in sorted(self._known):
            sha256.update(coalition + self._known[coalition])
        return sha256.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._known)

    def known(self, coalitions: BoolArray) -> BoolArray:
        """Which coalitions [R, num_players] are recorded: bool [R]."""
        return np.array([pack(row) in self._known for row in coalitions], dtype=np.bool_)

    def utilities(self, coalitions: BoolArray) -> FloatArray:
        """Per-prompt utilities [R, num_prompts]; NaN in rows that are not recorded."""
        blank = np.full(self.num_prompts, np.nan).astype("<f8").tobytes()
        joined = b"".join(self._known.get(pack(row), blank) for row in coalitions)
        return np.frombuffer(joined, dtype="<f8").astype(np.float64).reshape(len(coalitions), self.num_prompts)

    def coalitions(self) -> BoolArray:
        """All recorded coalitions [R, num_players], in one fixed order."""
        packed = np.frombuffer(b"".join(sorted(self._known)), dtype=np.uint8)
        packed = packed.reshape(len(self._known), (self.num_players + 7) // 8)
        return np.unpackbits(packed, axis=1, count=self.num_players).astype(np.bool_)

    def record(self, coalitions: BoolArray, utilities: FloatArray, origin: str = "") -> None:
        """Writes a block [R, num_players], [R, num_prompts] in one transaction. `origin`: who evaluated it."""
        values = np.asarray(utilities, dtype="<f8")
        expected = (len(coalitions), self.num_prompts)
        if values.shape != expected or not np.isfinite(values).all():
            raise CokvError(
                f"game {self.name!r}: utilities of shape {values.shape}, {int((~np.isfinite(values)).sum())} of them "
                f"not finite; expected finite numbers of shape {expected}, one per coalition and prompt"
            )
        if np.shape(coalitions)[1:] != (self.num_players,):
            raise CokvError(
                f"game {self.name!r}: coalitions of shape {np.shape(coalitions)}, expected {self.num_players} players"
            )
        keys, blobs = [pack(row) for row in coalitions], [row.tobytes() for row in values]
        with self.database.transaction():
            self.insert(keys, blobs, origin, datetime.now(UTC).isoformat(timespec="seconds"), "this evaluation", 0.0)
        self._known.update(zip(keys, blobs, strict=True))

    def add_design(self, design: Mapping[str, JSON]) -> None:
        """Stores which coalitions were planned."""
        with self.database.transaction():
            self.insert_design(design)

    def designs(self) -> list[dict[str, Any]]:
        """The stored designs, in one fixed order."""
        rows = self.database.rows("SELECT design FROM design WHERE game = ? ORDER BY design", (self.key,))
        return [json.loads(text) for (text,) in rows]

    def blocks(self) -> Iterator[tuple[tuple[str, str], list[bytes], list[bytes]]]:
        """((origin, written), coalitions, utilities) of every block, coalitions and utilities packed."""
        rows = self.database.rows(
            "SELECT block.id, origin, written, coalition, utilities FROM utility JOIN block ON block.id = block "
            "WHERE utility.game = ? ORDER BY block.id, coalition",
            (self.key,),
        )
        for (_, *origin), block in itertools.groupby(rows, key=lambda row: row[:3]):
            rows_of_block = list(block)
            yield (origin[0], origin[1]), [row[3] for row in rows_of_block], [row[4] for row in rows_of_block]

    def insert_design(self, design: Mapping[str, JSON]) -> None:
        """Inside a transaction."""
        self.database.connection.execute("INSERT OR IGNORE INTO design VALUES (?, ?)", (self.key, canonical(design)))

    def insert(
        self, keys: list[bytes], utilities: list[bytes], origin: str, written: str, source: str, tolerance: float
    ) -> int:
        """Inside a transaction: adds the rows that are new, and returns how many."""
        run, new = self.database.connection.execute, []
        for key, blob in zip(keys, utilities, strict=True):
            row = run("SELECT utilities FROM utility WHERE game = ? AND coalition = ?", (self.key, key)).fetchone()
            if row is None:
                new.append((self.key, key, blob))
            elif row[0] != blob:
                self._require_near(key, row[0], blob, source, tolerance)
        if new:
            block = run(
                "INSERT INTO block (game, written, origin) VALUES (?, ?, ?)", (self.key, written, origin)
            ).lastrowid
            self.database.connection.executemany(
                "INSERT INTO utility (game, coalition, utilities, block) VALUES (?, ?, ?, ?)",
                [(*row, block) for row in new],
            )
        return len(new)

    def _require_near(self, key: bytes, stored: bytes, new: bytes, source: str, tolerance: float) -> None:
        difference = np.abs(np.frombuffer(stored, "<f8") - np.frombuffer(new, "<f8"))
        if difference.max() > tolerance:
            prompt = int(difference.argmax())
            first, second = (float(np.frombuffer(blob, "<f8")[prompt]) for blob in (stored, new))
            raise CokvError(
                f"game {self.name!r}, coalition {bits(key, self.num_players)}, prompt {prompt}: utility {first!r} in "
                f"{self.database.path} and {second!r} in {source}, expected the same; "
                "one of the two was made otherwise than it says: keep the one you trust, or allow a tolerance"
            )
