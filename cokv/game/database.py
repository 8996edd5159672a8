"""One SQLite file: its tables, that it is a ledger of this version, transactions, and errors that name the file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from cokv.types import CokvError

APPLICATION = 0x636F6B76  # "cokv" in the file's header, which no other database has
SCHEMA = 1
TABLES = """
CREATE TABLE game (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, identity TEXT NOT NULL,
    num_players INTEGER NOT NULL, num_prompts INTEGER NOT NULL);
CREATE TABLE block (
    id INTEGER PRIMARY KEY, game INTEGER NOT NULL REFERENCES game (id), written TEXT NOT NULL, origin TEXT NOT NULL);
CREATE TABLE utility (
    game INTEGER NOT NULL REFERENCES game (id), coalition BLOB NOT NULL, utilities BLOB NOT NULL,
    block INTEGER NOT NULL REFERENCES block (id), PRIMARY KEY (game, coalition)) WITHOUT ROWID;
CREATE TABLE design (
    game INTEGER NOT NULL REFERENCES game (id), design TEXT NOT NULL, PRIMARY KEY (game, design)) WITHOUT ROWID;
"""


class Database:
    """An open ledger file. `create` makes a file that does not exist. Close it, or use it as a context manager."""

    def __init__(self, path: str | os.PathLike[str], create: bool = True) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise CokvError(f"{self.path}: no such file, expected a ledger; check the path")
        mode = "rwc" if create else "rw" if os.access(self.path, os.W_OK) else "ro"
        with self._named():
            self.connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=30, isolation_level=None
            )
            try:
                self._prepare()
            except BaseException:
                self.connection.close()
                raise

    def _prepare(self) -> None:
        run = self.connection.execute
        run("PRAGMA synchronous = FULL")
        if run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            with self.transaction():
                if run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:  # another process may have been first
                    for statement in TABLES.split(";\n"):
                        run(statement)
                    run(f"PRAGMA application_id = {APPLICATION}")
                    run(f"PRAGMA user_version = {SCHEMA}")
        application, version = run("PRAGMA application_id").fetchone()[0], run("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION:
            raise CokvError(f"{self.path}: a database of something else, expected a ledger; check the path")
        if version != SCHEMA:
            raise CokvError(
                f"{self.path}: a ledger of version {version}, expected {SCHEMA}; use the cokv that wrote it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A database error as one line with the file's name."""
        try:
            yield
        except sqlite3.Error as error:
            raise CokvError(
                f"{self.path}: not a ledger that can be used ({error}); check its folder and the disk, or move the "
                "file away: the same command then evaluates its coalitions again"
            ) from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; one writer at a time."""
        with self._named():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of a query."""
        with self._named():
            return self.connection.execute(query, values).fetchall()
