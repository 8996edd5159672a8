"""The official prompt wordings and generation lengths, read from the user's copy of the official files.

Released code: THUDM/LongBench, `LongBench/config/dataset2prompt.json` and `dataset2maxlen.json`; for version 2
`prompts/0shot.txt`. The files are not part of this project: a folder holds them, filled by hand with the command the
error message gives, or by `fetch_templates`. A record names their sha256, so that a changed wording is visible.

The commit and the text of `0shot.txt` were looked up in a stored copy of the repository; the checksums of the two JSON
files are those of the official files that the tests run on.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from longbench.errors import LongBenchError
from longbench.tasks import TASKS, V2, get_task
from longbench.v2 import check_template as check_v2_template

PROMPTS = "dataset2prompt.json"
LENGTHS = "dataset2maxlen.json"
PROMPT_V2 = "0shot.txt"
V1_FILES = (PROMPTS, LENGTHS)
COMMIT = "c5ea10bcd06285223c58dfed76bbc92d22273709"
BASE_URL = f"https://raw.githubusercontent.com/THUDM/LongBench/{COMMIT}"
PLACES = {
    PROMPTS: f"LongBench/config/{PROMPTS}",
    LENGTHS: f"LongBench/config/{LENGTHS}",
    PROMPT_V2: f"prompts/{PROMPT_V2}",
}
"""File -> where it is in the official repository."""
OFFICIAL_SHA256 = {
    PROMPTS: "56d22ad4f382169c2b8a11ff4c982a4a1bea096c8152b0f0b85b64686b157c30",
    LENGTHS: "72966b3c0933e214591637fb085798c5e687ebff4ddaab5d99bbc31120532022",
    PROMPT_V2: "68a162252bc9ff71d5d7abca3d69bb31aac3c35f832d657a2866f2018b8a6950",
}
_SIZE_LIMIT = 2**20


@dataclass(frozen=True)
class Templates:
    """prompts: data set -> template with {context} and mostly {input}. lengths: data set -> tokens to generate."""

    prompts: Mapping[str, str]
    lengths: Mapping[str, int]
    sha256: Mapping[str, str]

    @property
    def official(self) -> bool:
        """Is every file, byte for byte, the official one?"""
        return bool(self.sha256) and all(OFFICIAL_SHA256.get(name) == digest for name, digest in self.sha256.items())

    def prompt(self, dataset: str) -> str:
        name = get_task(dataset).name
        if name not in self.prompts:
            raise LongBenchError(f"{_home(name)} has no template for {name!r}; got {', '.join(sorted(self.prompts))}")
        return self.prompts[name]

    def max_new_tokens(self, dataset: str) -> int:
        name = get_task(dataset).name
        if name not in self.lengths:
            raise LongBenchError(f"{LENGTHS} has no length for {name!r}; got {', '.join(sorted(self.lengths))}")
        return self.lengths[name]

    def to_record(self) -> dict[str, Any]:
        return {"official": self.official, "sha256": dict(self.sha256)}


def _home(name: str) -> str:
    return PROMPT_V2 if name == V2.name else PROMPTS


def files_for(datasets: Iterable[str]) -> tuple[str, ...]:
    """The official files that these data sets need."""
    tasks = [get_task(name) for name in datasets]
    return (V1_FILES if any(t is not V2 for t in tasks) else ()) + ((PROMPT_V2,) if V2 in tasks else ())


def fetch_command(folder: Path | str, names: Iterable[str] = V1_FILES) -> str:
    """The shell command that puts these official files into `folder`."""
    return " && ".join(
        f"curl -fsSL --create-dirs -o '{Path(folder) / name}' {BASE_URL}/{PLACES[name]}" for name in names
    )


def read_templates(folder: Path | str, names: Iterable[str] = V1_FILES) -> Templates:
    """These files out of `folder`, checked: known data sets, strings that can be formatted, positive lengths."""
    folder, names = Path(folder), tuple(names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LongBenchError(
            f"{folder}: no {' and no '.join(missing)}; the official prompts are not shipped here, fetch them with: "
            f"{fetch_command(folder, names)}"
        )
    content = {name: _read(folder / name) for name in names}
    prompts: dict[str, Any] = _parse(content[PROMPTS], folder / PROMPTS) if PROMPTS in content else {}
    lengths: dict[str, Any] = _parse(content[LENGTHS], folder / LENGTHS) if LENGTHS in content else {}
    for dataset, template in prompts.items():
        _check_template(template, f"{folder / PROMPTS}, {dataset}")
    for dataset, length in lengths.items():
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise LongBenchError(f"{folder / LENGTHS}, {dataset}: got {length!r}, expected a count of tokens")
    if PROMPT_V2 in content:
        prompts[V2.name] = _text_v2(content[PROMPT_V2], folder / PROMPT_V2)
        lengths[V2.name] = V2.max_new_tokens
    return Templates(prompts, lengths, {name: hashlib.sha256(content[name]).hexdigest() for name in content})


def fetch_templates(
    folder: Path | str, names: Iterable[str] = V1_FILES, *, base_url: str = BASE_URL, timeout_s: float = 30.0
) -> Templates:
    """Fetch these official files at the pinned commit into `folder`; a file with another sha256 is not kept."""
    folder, names = Path(folder), tuple(names)
    content: dict[str, bytes] = {}
    for name in names:
        url = f"{base_url}/{PLACES[name]}"
        try:
            with urlopen(url, timeout=timeout_s) as response:
                content[name] = response.read(_SIZE_LIMIT)
        except (URLError, OSError, ValueError) as error:
            raise LongBenchError(
                f"cannot fetch {url} ({error}); fetch by hand: {fetch_command(folder, names)}"
            ) from None
        sha, expected = hashlib.sha256(content[name]).hexdigest(), OFFICIAL_SHA256[name]
        if sha != expected:
            raise LongBenchError(f"{url}: got sha256 {sha}, expected {expected}; nothing was kept, try another mirror")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        _write_whole(folder / name, data)
    return read_templates(folder, names)


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_SIZE_LIMIT + 1)
    if len(data) > _SIZE_LIMIT:
        raise LongBenchError(f"{path}: larger than {_SIZE_LIMIT} bytes, expected the official file")
    return data


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        table = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise LongBenchError(f"{path}: broken JSON ({error}); fetch the official file again") from None
    if not isinstance(table, dict) or not table:
        raise LongBenchError(f"{path}: expected an object from data set to value, got something else; fetch it again")
    unknown = [name for name in table if name not in TASKS]
    if unknown:
        raise LongBenchError(f"{path}: unknown data set {unknown[0]!r}, expected among {', '.join(TASKS)}")
    return table


def _text_v2(data: bytes, path: Path) -> str:
    """Line ends as Python's text mode reads them, which is how the official code opens the file."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise LongBenchError(f"{path}: not UTF-8 at byte {error.start}; fetch the official file again") from None
    check_v2_template(text, str(path))
    return text


def _check_template(template: Any, place: str) -> None:
    if not isinstance(template, str):
        raise LongBenchError(f"{place}: the template is a {type(template).__name__}, expected a string")
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise LongBenchError(f"{place}: the template cannot be formatted ({error}); double literal braces") from None
    fields = {str(field) for _, field, _, _ in parts}
    if "context" not in fields or fields - {"context", "input"} or any(spec or how for _, _, spec, how in parts):
        raise LongBenchError(
            f"{place}: the template uses {', '.join(sorted(fields)) or 'no field'}; expected {{context}}, {{input}}"
        )


def _write_whole(path: Path, data: bytes) -> None:
    """The whole file or none of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
