"""Reads data that the official generator prepared: JSON lines of `input, outputs, length`, newer versions with
`answer_prefix`.

Released code: NVIDIA/RULER, `scripts/data/prepare.py` (writes `<task>/validation.jsonl`). Any layout whose path names
the task will do: `<length>/<task>.jsonl`, `<length>/<task>/validation.jsonl`, `<task>_<length>.jsonl`.

Where the question starts is not in the file, so the whole input is the context and the question is empty; older files
end in the answer prefix, newer ones keep it apart. `length` is the file's, counted with the tokenizer it was prepared
for. Samples are numbered by line: the `index` of some versions is the place of the needle.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruler.errors import RulerError
from ruler.sample import Sample
from ruler.tasks import TASKS, get_task

LINE_LIMIT = 64 * 2**20  # bytes; a sample of a million tokens has about five million
EXPECTED = "expected the official input, outputs and length"
KVPRESS_REPO = "simonjegou/ruler"
KVPRESS_REVISION = "24adceac8a0e6532936e8d721cd9e9084d2e4686"  # of the hub, as projects that pin it state
NOTE_KVPRESS = "as kvpress publishes RULER; its length is counted with the tokenizer of Llama 3.1"
NOTE = "prepared by the official generator; its length is counted with the tokenizer it was prepared for"


@dataclass(frozen=True)
class Prepared:
    """A file of prepared samples: its task, and the length its path names, if any."""

    task: str
    length: int | None
    path: Path


def find_files(root: Path) -> list[Prepared]:
    """All files of known tasks below `root`, by length, then in the tasks' order."""
    root = Path(root)
    if not root.is_dir():
        raise RulerError(f"no folder {root}; name the folder the official generator wrote, or one of its .jsonl files")
    order = list(TASKS["official"])
    files = []
    for path in sorted(root.rglob("*.jsonl")):
        parts = path.relative_to(root).parts
        if path.is_file() and (task := task_of(parts)):
            files.append(Prepared(task, length_of((root.absolute().name, *parts)), path))
    if not files:
        raise RulerError(f"no RULER task in the .jsonl files of {root}; expected paths such as 4096/{order[0]}.jsonl")
    files.sort(key=lambda f: (f.length or 0, order.index(f.task), f.path))
    first_paths: dict[tuple[str, int | None], Path] = {}
    for file in files:
        first = first_paths.setdefault((file.task, file.length), file.path)
        if first != file.path:
            raise RulerError(f"{first} and {file.path} hold the same task and length; name one of them")
    return files


def task_of(parts: Iterable[str]) -> str | None:
    """The task a path names: its last part that is a task's name, with or without a length behind it."""
    for part in reversed(list(parts)):
        stem = re.sub(r"([_-]\d+k?)?(\.jsonl)?$", "", part)
        for name in (part.removesuffix(".jsonl"), stem):
            if name in TASKS["official"]:
                return name
    return None


def length_of(parts: Iterable[str]) -> int | None:
    """The length a path names: a folder such as 4096 or 4k, or such a number at the end of the file's name."""
    *folders, name = parts
    stem = name.removesuffix(".jsonl")
    for part in (re.sub(".*[_-]", "", stem), *reversed(folders)):
        if match := re.fullmatch(r"(\d{3,}|\d+k)", part):
            return int(match[1].removesuffix("k")) * (1024 if match[1].endswith("k") else 1)
    return None


def read_file(path: Path, task: str | None = None, seed: int = 0) -> list[Sample]:
    """All samples of one file. `task` defaults to the one the path names; `seed`, which the file does not hold,
    labels the samples.
    """
    path = Path(path)
    name = task or task_of(path.parts)
    if name is None:
        raise RulerError(f"{path} names no RULER task; rename it to <task>.jsonl or name its task")
    row, length = get_task(name), length_of(path.parts[-4:])
    samples: list[Sample] = []
    for number, record in read_objects(path):
        place = f"{path} line {number}"
        prompt, prefix = _text(record, "input", place), _text(record, "answer_prefix", place, default="")
        samples.append(
            Sample(
                task=name,
                sample_id=f"{name}/{length or 'prepared'}/{seed}/{len(samples)}",
                seed=seed,
                context=prompt,
                question="",
                answer_prefix=prefix,
                outputs=_outputs(record, place),
                gold=None,
                length=_count(record, "length", place),
                tokens_to_generate=row.tokens_to_generate,
                metric=row.metric,
                notes=(NOTE,),
            )
        )
    if not samples:
        raise RulerError(f"{path} is empty; {EXPECTED} on every line")
    return samples


def from_rows(rows: Iterable[dict[str, Any]], task: str, length: int, source: str, seed: int = 0) -> list[Sample]:
    """Samples from rows as kvpress publishes RULER: `context, question, answer_prefix, answer, task, max_new_tokens`.

    Released code: NVIDIA/kvpress, `evaluation/benchmarks/ruler`. The question is apart from the context. `length` is
    what the samples were prepared for; a row states none of its own.
    """
    row = get_task(task)
    samples: list[Sample] = []
    for number, record in enumerate(rows, 1):
        place = f"{source} row {number}"
        if (name := _text(record, "task", place)) != task:
            raise RulerError(f"{place}: is of task {name!r}, expected {task!r}")
        outputs = _outputs({**record, "outputs": _field(record, "answer", place)}, place)
        samples.append(
            Sample(
                task=task,
                sample_id=f"{task}/{length}/{seed}/{len(samples)}",
                seed=seed,
                context=_text(record, "context", place),
                question=_text(record, "question", place),
                answer_prefix=_text(record, "answer_prefix", place, default=""),
                outputs=outputs,
                gold=None,
                length=None,
                tokens_to_generate=_count(record, "max_new_tokens", place),
                metric=row.metric,
                notes=(NOTE_KVPRESS,),
            )
        )
    return samples


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, the object on it); blank lines are passed over."""
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(LINE_LIMIT + 1):
                number += 1
                if len(line) > LINE_LIMIT:
                    raise RulerError(
                        f"{path} line {number}: longer than {LINE_LIMIT} bytes; expected one sample per line"
                    )
                if line.strip():
                    yield number, _parse(line, f"{path} line {number}")
    except OSError as error:
        raise RulerError(
            f"cannot read {path} ({error.strerror}); expected a .jsonl file of the official generator"
        ) from None


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RulerError(f"{place}: not UTF-8 ({error.reason} at byte {error.start}); convert the file") from None
    except json.JSONDecodeError as error:
        raise RulerError(
            f"{place}: broken JSON ({error.msg} at column {error.colno}); prepare the file again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RulerError(f"{place}: cannot be parsed ({type(error).__name__}); {EXPECTED}") from None
    if not isinstance(record, dict):
        raise RulerError(f"{place}: a JSON {type(record).__name__}; {EXPECTED} in an object")
    return record


def _field(record: dict[str, Any], field: str, place: str) -> Any:
    if field not in record:
        raise RulerError(f"{place}: no field {field!r}; {EXPECTED}, got {', '.join(sorted(record)) or 'none'}")
    return record[field]


def _text(record: dict[str, Any], field: str, place: str, default: str | None = None) -> str:
    value = record.get(field, default) if default is not None else _field(record, field, place)
    if not isinstance(value, str):
        raise RulerError(f"{place}: {field!r} is {_kind(value)}; expected a string")
    if default is None and not value.strip():
        raise RulerError(f"{place}: {field!r} is empty; expected a prompt")
    return _encodable(value, field, place)


def _outputs(record: dict[str, Any], place: str) -> tuple[str, ...]:
    value = _field(record, "outputs", place)
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else _kind(value)
        raise RulerError(f"{place}: 'outputs' is {what}; expected a list of at least one string")
    for item in value:
        if not isinstance(item, str):
            raise RulerError(f"{place}: 'outputs' holds {_kind(item)}; expected strings only")
        if not item:
            raise RulerError(f"{place}: 'outputs' holds an empty string, which every prediction would match")
        _encodable(item, "outputs", place)
    return tuple(value)


def _count(record: dict[str, Any], field: str, place: str) -> int:
    value = _field(record, field, place)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        shown = value if isinstance(value, int) and not isinstance(value, bool) else _kind(value)
        raise RulerError(f"{place}: {field!r} is {shown}; expected a count of tokens")
    return value


def _encodable(text: str, field: str, place: str) -> str:
    """The text, which must be whole characters: half a surrogate pair cannot be written again."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RulerError(f"{place}: {field!r} holds half a surrogate pair; expected whole characters") from None
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
