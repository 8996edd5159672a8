"""Official LongBench data sets, checked record by record before anything is computed on them.

Schema: THUDM/LongBench on the hub, `LongBench.py` (v1 and -E), and the v2 card. What is read is held in memory;
nothing is written, unpacked or executed. `sources.py` fetches the bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from longbench.errors import LongBenchError
from longbench.jsonl import FILE_LIMIT, LINE_LIMIT, read_records, require_fields, require_text, require_texts
from longbench.tasks import V2, Task, base_name, get_task, official_count

FIELDS = ("input", "context", "answers", "length", "dataset", "language", "all_classes", "_id")
FIELDS_V2 = (
    *("_id", "domain", "sub_domain", "difficulty", "length", "question"),
    *("choice_A", "choice_B", "choice_C", "choice_D", "answer", "context"),
)


@dataclass(frozen=True)
class Sample:
    """One record. `record` holds every field as read, for `template.format(**record)`."""

    id: str
    answers: tuple[str, ...]
    all_classes: tuple[str, ...] | None
    length: int | str
    record: MappingProxyType[str, Any]


@dataclass(frozen=True)
class DataSet:
    """Samples in file order, and where they came from."""

    name: str
    task: Task
    samples: tuple[Sample, ...]
    source: str
    sha256: str
    revision: str | None = None
    subset: str | None = None

    def to_record(self) -> dict[str, Any]:
        """What a run's record says about its data."""
        return {
            "dataset": self.name,
            "task_version": self.task.version,
            "count": len(self.samples),
            "official_count": official_count(self.name),
            "source": self.source,
            "revision": self.revision,
            "sha256": self.sha256,
            **({} if self.subset is None else {"subset": self.subset}),
        }


def check_v1(record: dict[str, Any], place: str) -> None:
    """Every field of LongBench v1, of the right type, with a context, answers and a length."""
    require_fields(record, FIELDS, place)
    for field in ("input", "dataset", "language"):
        require_text(record[field], field, place)
    require_text(record["_id"], "_id", place, empty=False)
    require_text(record["context"], "context", place, empty=False)
    require_texts(record["answers"], "answers", place)
    if record["all_classes"] is not None:
        require_texts(record["all_classes"], "all_classes", place)
    length = record["length"]
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise LongBenchError(f"{place}: field 'length' is {length!r}, expected a count of words")


def check_v2(record: dict[str, Any], place: str) -> None:
    """Every field of LongBench v2: texts, an answer letter, a known difficulty and length class."""
    require_fields(record, FIELDS_V2, place)
    for field in FIELDS_V2:
        require_text(record[field], field, place, empty=field in ("domain", "sub_domain"))
    for field, choices in (
        ("answer", ("A", "B", "C", "D")),
        ("difficulty", ("easy", "hard")),
        ("length", ("short", "medium", "long")),
    ):
        if record[field] not in choices:
            raise LongBenchError(f"{place}: field {field!r} is {record[field]!r}, expected one of {', '.join(choices)}")


def parse_dataset(
    stream: IO[bytes],
    name: str,
    source: str,
    *,
    partial: bool = False,
    revision: str | None = None,
    line_limit: int = LINE_LIMIT,
) -> DataSet:
    """The data set `name` from a stream of JSON lines. `partial` accepts fewer samples than the official file has."""
    task = get_task(name)
    check = check_v2 if task is V2 else check_v1
    records, sha256 = read_records(stream, source, check, line_limit=line_limit)
    _check_whole(records, name, task, source, partial)
    return DataSet(name, task, tuple(map(_sample, records)), source, sha256, revision)


def read_dataset(path: Path | str, name: str, *, partial: bool = False, line_limit: int = LINE_LIMIT) -> DataSet:
    """The data set `name` from one JSON lines file."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            return parse_dataset(stream, name, str(path), partial=partial, line_limit=line_limit)
    except OSError as error:
        raise LongBenchError(
            f"cannot read {path} ({error.strerror}); expected the official {name}.jsonl, "
            "so give the folder or data.zip that holds it"
        ) from None


def from_rows(
    rows: Iterable[dict[str, Any]],
    name: str,
    source: str,
    sha256: str,
    *,
    partial: bool = False,
    revision: str | None = None,
) -> DataSet:
    """The data set `name` from rows of a table, checked as lines of a file are.

    A column has one type: tables write the official null of `all_classes` as an empty list, which is read as null.
    """
    task = get_task(name)
    check = check_v2 if task is V2 else check_v1
    records = []
    for number, row in enumerate(rows, 1):
        place = f"{source} row {number}"
        if task is not V2 and {"question", "answer_prefix"} <= row.keys():
            raise LongBenchError(
                f"{source}: holds prompts that are formatted already (columns question and answer_prefix), not the "
                "official records; give the official data.zip, or a copy with the official fields"
            )
        if task is not V2 and row.get("all_classes") == []:
            row = row | {"all_classes": None}
        check(row, place)
        records.append(row)
    _check_whole(records, name, task, source, partial)
    return DataSet(name, task, tuple(map(_sample, records)), source, sha256, revision)


def read_v2_array(path: Path | str, *, partial: bool = False, revision: str | None = None) -> DataSet:
    """LongBench v2 from its official `data.json`, one JSON array of records."""
    path = Path(path)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= FILE_LIMIT else b""
    except OSError as error:
        raise LongBenchError(f"cannot read {path} ({error.strerror}); expected v2's official data.json") from None
    if size > FILE_LIMIT:
        raise LongBenchError(f"{path}: larger than {FILE_LIMIT} bytes; expected v2's official data.json")
    try:
        records = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise LongBenchError(f"{path}: broken JSON ({error}); expected v2's data.json, fetch it again") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise LongBenchError(f"{path}: not an array of objects; expected v2's official data.json")
    for number, record in enumerate(records, 1):
        check_v2(record, f"{path} record {number}")
    _check_whole(records, V2.name, V2, str(path), partial)
    digest = hashlib.sha256(content).hexdigest()
    return DataSet(V2.name, V2, tuple(map(_sample, records)), str(path), digest, revision)


def _check_whole(records: list[dict[str, Any]], name: str, task: Task, source: str, partial: bool) -> None:
    twice = [key for key, times in Counter(record["_id"] for record in records).items() if times > 1]
    if twice:
        raise LongBenchError(f"{source}: {len(twice)} ids appear twice, {twice[0]!r} first; expected unique ids")
    if task is not V2:
        foreign = {record["dataset"] for record in records if base_name(record["dataset"]) != task.name}
        if foreign:
            raise LongBenchError(f"{source}: holds records of {sorted(foreign)[0]!r}, expected {name!r}")
        if task.metric == "classification_score" and any(record["all_classes"] is None for record in records):
            raise LongBenchError(f"{source}: field 'all_classes' is null, expected the classes of {task.name}")
    count, wanted = len(records), official_count(name)
    if count == 0:
        raise LongBenchError(f"{source}: holds no record, expected {wanted}; fetch the file again")
    if count > wanted or (count < wanted and not partial):
        advice = "" if count > wanted else " or pass partial=True to use a part of it knowingly"
        raise LongBenchError(f"{source}: holds {count} records, expected {wanted}; fetch the file again{advice}")


def _sample(record: dict[str, Any]) -> Sample:
    if "answers" in record:
        answers, classes = tuple(record["answers"]), record["all_classes"]
    else:
        answers, classes = (record["answer"],), None
    return Sample(
        id=record["_id"],
        answers=answers,
        all_classes=None if classes is None else tuple(classes),
        length=record["length"],
        record=MappingProxyType(record),
    )
