"""A run folder: `spec.json` first, one flushed line per sample, `done.json` last.

The same command goes on in the same folder. The folder's name ends in a hash over what all its answers share: the
model's bytes, the protocol, lengths and wording, this project's code, and the library versions that matter. What is
asked of it (methods, budgets, tasks, samples, seeds) is no part of the hash, so that a run can grow: `spec.json` holds
what was asked last in a part that is rewritten, and `done.json` says for what the folder is complete.

What a kill leaves of an append, some lines or a torn one, is dropped and computed again, so that records that were
computed together stay together; any other damage is an error that names the file and what to do, never repaired.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cokv.game.identity import canonical, digest
from cokv.types import replace_file, sync_folder
from reports.rundir import missing_files
from suite.errors import SuiteError

SCHEMA = 2
SPEC, DONE = "spec.json", "done.json"
ABOUT = "about"  # the part of spec.json that changes no answer: names, titles, where the model was loaded from
MACHINES = "machines"  # the part of spec.json that says on what the run was computed so far, which it may grow on
STAGES = "stages.jsonl"
EARLIER = "earlier"  # folder of what was made for settings that are not asked for now
LEFT_BY_A_KILL = {".spec.json.part"}  # between making the folder and its first file
SOME_RUNS_HAVE = ("longbench.json", "measurements.json", "stability.json")
LOCK = ".lock"
MARKS = {LOCK, DONE, STAGES, "predictions.jsonl"}  # a folder of this name that holds one of them is the run's


class RunFolder:
    """One run's files. Opening it checks that it belongs to `identity`.

    asked: what the run is to hold in the end, which may change; about: facts for readers, which change nothing.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        identity: dict[str, Any],
        asked: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.hash = hashlib.sha256(canonical({"schema": SCHEMA, **identity}).encode()).hexdigest()[:8]
        self.path = root / f"{name}-{self.hash}"
        self.identity, self.asked, self.about = identity, asked or {}, about or {}

    @property
    def done(self) -> bool:
        """Whether nothing is left to do of what is asked. A file that was deleted from a finished run is made again."""
        if missing_files(self.path):
            return False
        done = self.read(DONE)
        if not isinstance(done, dict) or not all((self.path / str(name)).exists() for name in done.get("files", ())):
            return False
        return done.get("asked") == digest(self.asked) and self._is_spec(self.read(SPEC))

    def finish(self, **facts: Any) -> None:
        """Marks what is asked as complete."""
        files = [name for name in SOME_RUNS_HAVE if (self.path / name).exists()]
        self.write(DONE, {"hash": self.hash, "asked": digest(self.asked), "files": files, **facts})

    def open(self) -> None:
        """Makes the folder, or checks the spec of the one that exists; writes it again where it was deleted: the hash
        in the folder's name says what it was.
        """
        spec = {"schema": SCHEMA, "hash": self.hash, **self.identity}
        file = self.path / SPEC
        if file.exists():
            stored = _load(file, "delete that file and run again")
            fixed = {name: stored.get(name) for name in spec} if isinstance(stored, dict) else None
            if canonical(fixed) != canonical(spec):
                raise SuiteError(f"{file} was written for another experiment; move the folder away and run again")
            return
        present = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        if present - LEFT_BY_A_KILL and not present & MARKS:
            raise SuiteError(
                f"{self.path} holds files but no spec.json, so it is no run folder; move the folder away and run again"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            sync_folder(self.path.parent)
        except OSError as error:
            raise SuiteError(
                f"cannot make the run folder {self.path} ({error.strerror}); choose another with --runs"
            ) from None
        self._write_spec([])

    def ask(self, machine: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Stores what is asked now, under the lock; where that is another thing than last time, the run is not done.

        machine: what decides the rounding of its numbers from now on. Returns the machines so far, this one left out.
        """
        stored = self.read(SPEC)
        so_far = stored.get(MACHINES) if isinstance(stored, dict) else None
        so_far = so_far if isinstance(so_far, list) else []
        if not self._is_spec(stored):
            (self.path / DONE).unlink(missing_ok=True)
            sync_folder(self.path)
        machines = so_far if machine is None or machine in so_far else [*so_far, machine]
        if not self._is_spec(stored) or machines != so_far:
            self._write_spec(machines)
        return [other for other in so_far if other != machine]

    def _is_spec(self, stored: Any) -> bool:
        """Whether this is what is asked, of this run, wherever it was computed."""
        return isinstance(stored, dict) and canonical({**stored, MACHINES: []}) == canonical(self._spec([]))

    def _spec(self, machines: list[Any]) -> dict[str, Any]:
        about = {ABOUT: self.about} if self.about else {}
        fixed = {"schema": SCHEMA, "hash": self.hash, **self.identity}
        return {**fixed, **self.asked, **about, MACHINES: machines}

    def _write_spec(self, machines: list[Any]) -> None:
        self.write(SPEC, self._spec(machines))

    def write(self, name: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        part = self.path / f".{name}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
            file.write("\n")
        replace_file(part, self.path / name)

    def read(self, name: str) -> Any | None:
        """A JSON file of the run, or None where it has not been written yet."""
        file = self.path / name
        return _load(file, "delete that file and run again") if file.exists() else None

    def put_aside(self, name: str, stored: str | None, wanted: str | None) -> None:
        """Where a file was made for other settings than those wanted: moves it to `earlier/`, under the digest of the
        settings it was made for, and brings back the one that was made for those wanted, if there is one.

        stored, wanted: digests, None without a file and where none is wanted.
        """
        file = self.path / name
        if stored == wanted:
            return
        if stored is not None:
            _move(file, self._earlier(file, stored))
        if wanted is not None and (earlier := self._earlier(file, wanted)).exists():
            _move(earlier, file)

    def _earlier(self, file: Path, settings: str) -> Path:
        return self.path / EARLIER / f"{file.stem}-{settings}{file.suffix}"

    def lines(self, name: str, required: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """The whole lines of a JSON-lines file, each with the `required` keys. A torn last line is cut off the file."""
        file = self.path / name
        if not file.exists():
            return []
        self._drop_half_append(name)
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with file.open("r+b") as handle:
                handle.truncate(whole)
        records = []
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SuiteError(f"{file} line {number} is damaged ({error}); delete that line and run again") from None
            if not isinstance(record, dict) or not record.keys() >= set(required):
                keys = f" with {', '.join(required)}" if required else ""
                raise SuiteError(f"{file} line {number} is no record{keys}; delete that line and run again")
            records.append(record)
        return records

    def rewrite(self, name: str, records: list[dict[str, Any]]) -> None:
        """Replaces a JSON-lines file, whole or not at all."""
        part = self.path / f".{name}.part"
        part.write_bytes(b"".join(canonical(record).encode() + b"\n" for record in records))
        self._intent(name).unlink(missing_ok=True)  # its offsets are those of the file that is replaced
        sync_folder(self.path)
        replace_file(part, self.path / name)

    @contextmanager
    def appender(self, name: str) -> Iterator[Any]:
        """A function that appends records, all of one call flushed to disk before it returns, or none after a kill."""
        self._drop_half_append(name)
        with (self.path / name).open("ab") as file:
            sync_folder(self.path)

            def append(records: list[dict[str, Any]]) -> None:
                data = b"".join(canonical(record).encode() + b"\n" for record in records)
                if len(records) > 1:
                    self._intend(name, file.tell(), file.tell() + len(data))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

            yield append
        self._intent(name).unlink(missing_ok=True)

    def _intent(self, name: str) -> Path:
        """The file that says from where to where the newest append of several records goes."""
        return self.path / f".{name}.append"

    def _intend(self, name: str, start: int, end: int) -> None:
        new = not self._intent(name).exists()
        with self._intent(name).open("w", encoding="utf-8") as file:
            json.dump([start, end], file)
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.path)

    def _drop_half_append(self, name: str) -> None:
        """Cuts off what a kill has left of an append: it may be whole lines, of which the others are missing."""
        intent, file = self._intent(name), self.path / name
        if not intent.exists() or not file.exists():
            return
        try:
            start, end = json.loads(intent.read_text(encoding="utf-8"))
        except (ValueError, TypeError):  # torn itself: the append had not begun
            start = end = 0
        if start < file.stat().st_size < end:
            with file.open("r+b") as handle:
                handle.truncate(start)
                os.fsync(handle.fileno())
        intent.unlink()

    @contextmanager
    def stage(self, name: str, workers: int) -> Iterator[None]:
        """Records the seconds of one stage once it has ended; a stage that is killed leaves no record."""
        start = time.monotonic()
        yield
        with self.appender(STAGES) as append:
            append([{"stage": name, "seconds": round(time.monotonic() - start, 1), "workers": workers}])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time: a second one is refused. The lock ends with the process, however that ends."""
        import fcntl

        with (self.path / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SuiteError(f"{self.path} is being written by another process; wait for it, or stop it") from None
            except OSError as error:
                raise SuiteError(
                    f"{self.path} cannot be locked ({error.strerror}); name a folder on another disk with --runs"
                ) from None
            yield


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    source.replace(target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def _load(file: Path, remedy: str) -> Any:
    """A JSON file's content, or an error with the remedy."""
    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{file} is damaged ({error}); {remedy}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # and is never written into a run folder
