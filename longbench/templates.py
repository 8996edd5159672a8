"""The official prompt wordings and generation lengths, read from the user's copy of the official files.

Released code: THUDM/LongBench, `LongBench/config/dataset2prompt.json` and `dataset2maxlen.json`. The files are not part
of this project: a folder holds them, filled by hand with the command the error message gives, or by `fetch_templates`.
A record names their sha256, so that a changed wording is visible.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from longbench.errors import LongBenchError
from longbench.tasks import TASKS, get_task

PROMPTS = "dataset2prompt.json"
LENGTHS = "dataset2maxlen.json"
COMMIT = "c5ea10bcd06285223c58dfed76bbc92d22273709"
BASE_URL = f"https://raw.githubusercontent.com/THUDM/LongBench/{COMMIT}/LongBench/config"
OFFICIAL_SHA256 = {
    PROMPTS: "56d22ad4f382169c2b8a11ff4c982a4a1bea096c8152b0f0b85b64686b157c30",
    LENGTHS: "72966b3c0933e214591637fb085798c5e687ebff4ddaab5d99bbc31120532022",
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
        """Are both files, byte for byte, the official ones?"""
        return dict(self.sha256) == OFFICIAL_SHA256

    def prompt(self, dataset: str) -> str:
        name = get_task(dataset).name
        if name not in self.prompts:
            raise LongBenchError(f"{PROMPTS} has no template for {name!r}; got {', '.join(sorted(self.prompts))}")
        return self.prompts[name]

    def max_new_tokens(self, dataset: str) -> int:
        name = get_task(dataset).name
        if name not in self.lengths:
            raise LongBenchError(f"{LENGTHS} has no length for {name!r}; got {', '.join(sorted(self.lengths))}")
        return self.lengths[name]

    def to_record(self) -> dict[str, Any]:
        return {"official": self.official, "sha256": dict(self.sha256)}


def fetch_command(folder: Path | str) -> str:
    """The shell command that puts both official files into `folder`."""
    return " && ".join(
        f"curl -fsSL --create-dirs -o '{Path(folder) / name}' {BASE_URL}/{name}" for name in (PROMPTS, LENGTHS)
    )


def read_templates(folder: Path | str) -> Templates:
    """Both files out of `folder`, checked: known data sets, strings that can be formatted, positive lengths."""
    folder = Path(folder)
    missing = [name for name in (PROMPTS, LENGTHS) if not (folder / name).is_file()]
    if missing:
        raise LongBenchError(
            f"{folder}: no {' and no '.join(missing)}; the official prompts are not shipped here, fetch them with: "
            f"{fetch_command(folder)}"
        )
    content = {name: _read(folder / name) for name in (PROMPTS, LENGTHS)}
    prompts = _parse(content[PROMPTS], folder / PROMPTS)
    lengths = _parse(content[LENGTHS], folder / LENGTHS)
    for dataset, template in prompts.items():
        _check_template(template, f"{folder / PROMPTS}, {dataset}")
    for dataset, length in lengths.items():
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise LongBenchError(f"{folder / LENGTHS}, {dataset}: got {length!r}, expected a count of tokens")
    return Templates(prompts, lengths, {name: hashlib.sha256(content[name]).hexdigest() for name in content})


def fetch_templates(folder: Path | str, *, base_url: str = BASE_URL, timeout_s: float = 30.0) -> Templates:
    """Fetch both official files at the pinned commit into `folder`; a file with another sha256 is not kept."""
    folder = Path(folder)
    content: dict[str, bytes] = {}
    for name, expected in OFFICIAL_SHA256.items():
        url = f"{base_url}/{name}"
        try:
            with urlopen(url, timeout=timeout_s) as response:
                content[name] = response.read(_SIZE_LIMIT)
        except (URLError, OSError, ValueError) as error:
            raise LongBenchError(f"cannot fetch {url} ({error}); fetch by hand: {fetch_command(folder)}") from None
        got = hashlib.sha256(content[name]).hexdigest()
        if got != expected:
            raise LongBenchError(f"{url}: got sha256 {got}, expected {expected}; nothing was kept, try another mirror")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        _write_whole(folder / name, data)
    return read_templates(folder)


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_SIZE_LIMIT + 1)
    if len(data) > _SIZE_LIMIT:
        raise LongBenchError(f"{path}: larger than {_SIZE_LIMIT} bytes, expected the official file")
    return data


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        table = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise LongBenchError(f"{path}: broken JSON ({error}); fetch the official file again") from None
    if not isinstance(table, dict) or not table:
        raise LongBenchError(f"{path}: expected an object from data set to value, got something else; fetch it again")
    unknown = [name for name in table if name not in TASKS]
    if unknown:
        raise LongBenchError(f"{path}: unknown data set {unknown[0]!r}, expected among {', '.join(TASKS)}")
    return table


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
