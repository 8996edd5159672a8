"""Where converted models are kept: one folder per GGUF file, by the file's sha256, complete or not there.

`$COKV_CACHE`, else `$XDG_CACHE_HOME/cokv`, else `~/.cache/cokv`. A folder is filled under another name and renamed when
it is complete, by one process at a time: a kill leaves nothing that looks finished, and the next process removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from cokv.types import CokvError

CONVERSION = 1  # raised when converting the same file gives another model
RECORD = "conversion.json"
IDENTITY = {".safetensors", ".json", ".jinja", ".model", ".txt"}  # weights, configs, chat template, vocabularies


@dataclass(frozen=True)
class Conversion:
    """What a converted folder was made of: the file's name and sha256, by which versions, and its content's digest.

    notes: what of the file could not be followed to the letter.
    """

    file: str
    sha256: str
    content: str
    versions: dict[str, str]
    conversion: int = CONVERSION
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The model's identity: of the file alone, so that it is the same whatever versions converted it."""
        return digest_of(self.sha256, self.conversion)


def digest_of(sha256: str, conversion: int = CONVERSION) -> str:
    """The digest of the model that is converted from the GGUF file with this checksum."""
    return hashlib.sha256(f"gguf {sha256} {conversion}".encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """The folder of all that cokv keeps for later runs."""
    if own := os.environ.get("COKV_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cokv"


def converted_folder(sha256: str) -> Path:
    """Where the conversion of the GGUF file with this checksum is, or would be."""
    return cache_folder() / "models" / f"gguf-{sha256}-{CONVERSION}"


def is_converted(sha256: str) -> bool:
    return (converted_folder(sha256) / RECORD).is_file()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path | None]:
    """A folder to fill, which becomes `folder` at the end; None if another process has finished it meanwhile.

    Processes wait for each other. An exception, or a kill, leaves no `folder`. Raises CokvError where the cache cannot
    be written.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise CokvError(
            f"cannot write {folder.parent} ({error.strerror or error}); set COKV_CACHE to a folder that can be written"
        ) from None
    try:
        if folder.is_dir():
            yield None
            return
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        try:
            yield part
            part.replace(folder)
        except OSError as error:
            raise CokvError(
                f"cannot write {part}: {error.strerror or error}; free some space, or set COKV_CACHE to another folder"
            ) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        lock.release()


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest(folder: Path) -> str:
    """sha256 over a local folder's files, without the record of its conversion."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in IDENTITY and file.name != RECORD:
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]


def write_conversion(folder: Path, conversion: Conversion) -> None:
    text = json.dumps(asdict(conversion), indent=2, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def stated_conversion(folder: Path) -> Conversion:
    """What a converted folder says of itself. Raises CokvError where it says nothing."""
    conversion = _read(folder)
    if conversion is None:
        raise CokvError(f"{folder}: no readable {RECORD}; delete this folder, and it is made again")
    return conversion


def conversion_of(folder: Path) -> tuple[Conversion | None, str]:
    """What a folder was converted from, None if from nothing or if it was changed since; and its content's digest."""
    content, conversion = content_digest(folder), _read(folder)
    return (conversion if conversion is not None and conversion.content == content else None), content


def _read(folder: Path) -> Conversion | None:
    try:
        stated = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Conversion(**{**stated, "notes": tuple(stated["notes"])})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
