"""The C sources of this package, compiled once by the system's compiler and loaded with ctypes.

A library lies under the cache folder by a digest of all that it depends on: source, headers, flags, compiler and
processor. It is built under another name and renamed when it is whole, so that processes do not meet. Without a
compiler, or with COKV_NO_COMPILE=1, there is none, and `Unavailable` says why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from cokv.model.store import cache_folder
from cokv.types import CokvError

OFF = "COKV_NO_COMPILE"
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared")
SECONDS = 120  # a compiler that takes longer is not waited for


class Unavailable(CokvError):
    """Compiled code cannot be had on this machine; the message says why."""


def library(source: Path, defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The library of a C file with these macros, "NAME" or "NAME=value". Raises Unavailable."""
    if os.environ.get(OFF, "") not in ("", "0"):
        raise Unavailable(f"{OFF} is set")
    result = _library(source, defines)
    if isinstance(result, Unavailable):
        raise result
    return result


@functools.cache
def _library(source: Path, defines: tuple[str, ...]) -> ctypes.CDLL | Unavailable:
    """Tried once in a process."""
    try:
        return _load(source, defines)
    except Unavailable as error:
        return error


def _load(source: Path, defines: tuple[str, ...]) -> ctypes.CDLL:
    compiler = find_compiler()
    flags = (*FLAGS, *(f"-D{define}" for define in defines))
    name = f"{source.stem}-{_digest(source, compiler, flags)}.so"
    try:
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            _compile(source, compiler, flags, folder, name)
        return ctypes.CDLL(str(folder / name))
    except OSError as error:
        raise Unavailable(f"cannot build or load {name}: {error}") from None


def find_compiler() -> list[str]:
    """The command in $CC, else cc, gcc or clang."""
    named = shlex.split(os.environ.get("CC", ""))
    for command in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path:
            return [path, *command[1:]]
    raise Unavailable(f"no C compiler: {named[0]} is not there" if named else "no C compiler: none of cc, gcc, clang")


def _compile(source: Path, compiler: list[str], flags: tuple[str, ...], folder: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as part:
        built = Path(part) / name
        command = [*compiler, *flags, "-o", str(built), str(source), "-lm"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{compiler[0]} took more than {SECONDS} s over {source.name}") from None
        if result.returncode or not built.exists():
            lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
            raise Unavailable(f"{compiler[0]} cannot compile {source.name}: {(lines or ['no message'])[0].strip()}")
        os.replace(built, folder / name)


def _digest(source: Path, compiler: list[str], flags: tuple[str, ...]) -> str:
    status = os.stat(compiler[0])
    headers = sorted(source.parent.glob("*.h"))
    parts = [
        *(file.read_text(encoding="utf-8") for file in (source, *headers)),
        *compiler,
        str((status.st_size, status.st_mtime_ns)),
        *flags,
        _processor(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "features", "cpu part")
    return (
        platform.machine()
        + platform.processor()
        + "".join(sorted({line for line in lines if line.lower().startswith(wanted)}))
    )
