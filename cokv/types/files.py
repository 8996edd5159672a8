"""One safetensors file per object: arrays as tensors, everything else as JSON in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cokv.types.errors import CokvError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


def write_tensors(
    path: str | os.PathLike[str], kind: str, tensors: dict[str, torch.Tensor], header: Mapping[str, object]
) -> None:
    """Write beside the target, then rename: a reader never meets half a file."""
    target = Path(path)
    metadata = {"kind": f"cokv.{kind}", **{key: json.dumps(value, sort_keys=True) for key, value in header.items()}}
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=metadata)
        replace_file(part, target)
    except (OSError, SafetensorError) as error:
        raise CokvError(
            f"{target}: cannot be written ({_one_line(error)}); choose a folder that can be written to"
        ) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def replace_file(part: Path, target: Path) -> None:
    """Renames a whole file over its target, both on disk when this returns: after a crash of the machine the target is
    the old file or the new one.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Puts a folder's entries on disk. Some file systems cannot sync a folder; they keep its entries themselves."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_tensors(
    path: str | os.PathLike[str], kind: str, names: Sequence[str] | None, keys: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of these names, None for all, and these entries of the header. Raises CokvError for another file."""
    where = os.fspath(path)
    if not Path(path).is_file():
        raise CokvError(f"{where}: no such file, expected a cokv.{kind} safetensors file; check the path")
    try:
        with safe_open(where, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = set(file.keys())
            if (
                metadata.get("kind") != f"cokv.{kind}"
                or not stored.issuperset(names or ())
                or not metadata.keys() >= set(keys)
            ):
                got = metadata.get("kind", f"tensors {sorted(stored)} without a kind")
                raise CokvError(
                    f"{where}: holds {got}, expected cokv.{kind} with {[*(names or ()), *keys]}; write it with .save()"
                )
            tensors = {name: file.get_tensor(name) for name in (sorted(stored) if names is None else names)}
        return tensors, {key: json.loads(metadata[key]) for key in keys}
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CokvError(
            f"{where}: not a readable cokv.{kind} file ({_one_line(error)}); it is damaged, make it again"
        ) from None


def numbers(tensor: torch.Tensor, dtype: torch.dtype) -> Any:
    if tensor.dtype != dtype:
        raise CokvError(f"numbers of type {tensor.dtype}, expected {dtype}; write the file with .save()")
    return tensor.numpy()


@contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the file's name in front of a CokvError raised inside."""
    try:
        yield
    except CokvError as error:
        raise CokvError(f"{os.fspath(path)}: {error}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
