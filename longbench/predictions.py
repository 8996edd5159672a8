"""Predictions that other tools wrote, read into one shape.

Read: LongBench's own `pred/<model>/<data set>.jsonl` (KVCache-Factory's and HeadKV's result files have the same
fields), version 2's own `results/<model>.jsonl`, kvpress's `predictions.csv`, lm-evaluation-harness's
`samples_<task>_<date>.jsonl`. The latter two hold other benchmarks too, whose tasks keep their names.

A file without the gold answers cannot be scored and is refused; nothing is guessed.
"""

from __future__ import annotations

import ast
import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longbench.errors import LongBenchError
from longbench.jsonl import (
    FILE_LIMIT,
    LINE_LIMIT,
    parse_line,
    read_lines,
    read_records,
    require_fields,
    require_text,
    require_texts,
)
from longbench.tasks import TASKS, V2, base_name

FORMATS = ("longbench", "longbench-v2", "kvpress", "lm-eval")


@dataclass(frozen=True)
class Prediction:
    """One answer of some model. `task` is the other tool's name of the data set, cleaned of its decoration.

    sample_id: None where the file states none. length: in words (version 1), or the nominal prompt length in tokens
    where the file says one. groups: version 2's difficulty and length class.
    """

    task: str
    sample_id: str | None
    prediction: str
    references: tuple[str, ...]
    all_classes: tuple[str, ...] | None
    length: int | None
    groups: Mapping[str, str] = field(default_factory=dict)


def read_predictions(path: Path | str, *, form: str | None = None, dataset: str | None = None) -> list[Prediction]:
    """All predictions of one file. `form` is one of FORMATS (default: by name and content), `dataset` overrides."""
    path = Path(path)
    if not path.is_file():
        raise LongBenchError(
            f"got {str(path)!r}, which is no file; expected predictions in one of {', '.join(FORMATS)}"
        )
    form = form or _guess(path)
    if form == "longbench":
        return _longbench(path, dataset)
    if form == "longbench-v2":
        return _longbench_v2(path)
    if form == "kvpress":
        return _kvpress(path, dataset)
    if form == "lm-eval":
        return _lm_eval(path, dataset)
    raise LongBenchError(f"got the format {form!r}, expected one of {', '.join(FORMATS)}")


def _guess(path: Path) -> str:
    if path.suffix == ".csv":
        return "kvpress"
    if path.name.startswith("samples_"):
        return "lm-eval"
    first = first_record(path)
    return "longbench-v2" if {"difficulty", "answer"} <= first.keys() else "longbench"


def first_record(path: Path | str) -> dict[str, Any]:
    """The first object of a file of JSON lines; empty where the file has none. A malformed line raises."""
    with Path(path).open("rb") as stream:
        for number, line in read_lines(stream, str(path)):
            if (record := parse_line(line, str(path), number)) is not None:
                return record
    return {}


def clean_task(name: str) -> str:
    """`longbench_samsum`, `samsum-e` -> the names used here; an unknown name is left as it is."""
    name = name if name == V2.name else name.removeprefix("longbench_")
    return f"{name[:-2]}_e" if name.endswith("-e") else name


def _prediction(task: str, sample_id: Any, text: Any, row: dict[str, Any], answers: Any, place: str) -> Prediction:
    require_text(text, "prediction", place)
    if isinstance(answers, str):
        answers = [answers]
    require_texts(answers, "answers", place)
    classes = row.get("all_classes") or None
    if classes is not None:
        require_texts(classes, "all_classes", place)
    length = row.get("length")
    is_count = isinstance(length, int) and not isinstance(length, bool)
    return Prediction(
        clean_task(task),
        None if sample_id is None else str(sample_id),
        text,
        tuple(answers),
        tuple(classes) if classes else None,
        length if is_count else None,
        _groups(row) if clean_task(task) == V2.name else {},
    )


def _groups(row: dict[str, Any]) -> dict[str, str]:
    """Version 2's difficulty and length class, where the row has them."""
    return {name: row[name] for name in ("difficulty", "length") if isinstance(row.get(name), str) and row[name]}


def _rows(
    path: Path, fields: tuple[str, ...], check: Callable[[dict[str, Any], str], None] = lambda record, place: None
) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, each with these fields and past `check(record, place)`."""

    def checked(record: dict[str, Any], place: str) -> None:
        require_fields(record, fields, place)
        check(record, place)

    with path.open("rb") as stream:
        return read_records(stream, str(path), checked)[0]


def _longbench(path: Path, dataset: str | None) -> list[Prediction]:
    """The data set is the file's name, else its folder's (KVCache-Factory), else each line's `dataset`."""
    rows = _rows(path, ("pred", "answers", "all_classes"))
    names = [base_name(clean_task(name)) for name in (path.stem, path.parent.name)]
    named = next((name for name in names if name in TASKS), None)
    out = []
    for number, row in enumerate(rows):
        task = dataset or named or row.get("dataset")
        place = f"{path} record {number + 1}"
        if not isinstance(task, str):
            raise LongBenchError(f"{place}: cannot tell the data set; name the file after it, or give the data set")
        out.append(_prediction(task, row.get("_id"), row["pred"], row, row["answers"], place))
    return out


def _longbench_v2(path: Path) -> list[Prediction]:
    """Version 2's `results/<model>.jsonl`: the response is read again; without one, the letter stored as `pred` is."""
    out = []
    for number, row in enumerate(_rows(path, ("_id", "answer", "difficulty", "length", "pred"))):
        letter = f"The correct answer is ({row['pred']})" if row["pred"] else ""
        text = row.get("response", letter)
        out.append(_prediction(V2.name, row["_id"], text, row, row["answer"], f"{path} record {number + 1}"))
    return out


def _lm_eval(path: Path, dataset: str | None) -> list[Prediction]:
    """The first filtered response of each document; a log with several filters is refused as ambiguous."""

    def check(record: dict[str, Any], place: str) -> None:
        if not isinstance(record["doc"], dict) or not isinstance(record["filtered_resps"], list):
            raise LongBenchError(
                f"{place}: 'doc' or 'filtered_resps' has another shape; expected an lm-eval sample log"
            )
        if len(record["filtered_resps"]) != 1:
            raise LongBenchError(f"{place}: {len(record['filtered_resps'])} responses, expected one greedy response")

    rows = _rows(path, ("doc_id", "doc", "filtered_resps"), check)
    filters = sorted({str(row.get("filter", "none")) for row in rows})
    if len(filters) > 1:
        raise LongBenchError(f"{path}: holds the filters {', '.join(filters)}; expected one, keep only its lines")
    match = re.fullmatch(r"samples_(.+)_\d{4}-\d{2}-\d{2}T[\d.\-]+", path.stem)
    named = match.group(1) if match else None
    out = []
    for number, row in enumerate(rows):
        doc, place = row["doc"], f"{path} record {number + 1}"
        task = dataset or named or doc.get("dataset") or doc.get("task")
        if not isinstance(task, str):
            raise LongBenchError(f"{place}: cannot tell the data set; keep lm-eval's file name, or give the data set")
        answers = doc.get("answers", doc.get("outputs", doc.get("answer", row.get("target"))))
        sample_id = doc.get("_id", row["doc_id"])
        facts = doc | ({"length": doc["max_length"]} if "max_length" in doc else {})  # RULER's nominal length
        out.append(_prediction(task, sample_id, row["filtered_resps"][0], facts, answers, place))
    return out


def _kvpress(path: Path, dataset: str | None) -> list[Prediction]:
    """Rows of `predictions.csv`: `predicted_answer`, `answers` or `answer`, `task`, `all_classes`, `length`."""
    raw = path.read_bytes() if path.stat().st_size <= FILE_LIMIT else None
    if raw is None:
        raise LongBenchError(f"{path}: larger than {FILE_LIMIT} bytes, expected kvpress's predictions.csv")
    try:
        text = raw.decode("utf-8-sig")  # spreadsheets save UTF-8 with a byte order mark
    except UnicodeDecodeError as error:
        raise LongBenchError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8, as kvpress does") from None
    header, rows = _csv_rows(text, path)
    if "predicted_answer" not in header or not ({"answers", "answer"} & set(header)):
        raise LongBenchError(
            f"{path}: got the columns {', '.join(name[:30] for name in header[:8]) or 'none'}; expected "
            "predicted_answer, answers, task (older versions of kvpress left the answers out: run it again with a "
            "current one)"
        )
    out = []
    for number, row in enumerate(rows):
        place = f"{path} row {number + 1}"
        if None in row or None in row.values():
            raise LongBenchError(
                f"{place}: has more or fewer cells than the header; expected kvpress's predictions.csv"
            )
        task = dataset or row.get("task")
        if not task:
            raise LongBenchError(f"{place}: no task column; give the data set")
        answers = parse_cell_list(row.get("answers") or row["answer"], place)
        length = row.get("length") or ""
        number_of_words = int(float(length)) if re.fullmatch(r"\d+(\.0)?", length) else length
        values: dict[str, Any] = {"length": number_of_words, "difficulty": row.get("difficulty")}
        if classes := row.get("all_classes"):
            values["all_classes"] = parse_cell_list(classes, place)
        sample_id = row.get("_id") or row.get("id") or row.get("index")
        out.append(_prediction(task, sample_id, row["predicted_answer"], values, answers, place))
    return out


def _csv_rows(text: str, path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header, and a dictionary per row."""
    before = csv.field_size_limit(LINE_LIMIT)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return list(reader.fieldnames or []), list(reader)
    except csv.Error as error:
        raise LongBenchError(f"{path}: broken CSV ({error}); expected kvpress's predictions.csv") from None
    finally:
        csv.field_size_limit(before)


_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


def parse_cell_list(cell: str, place: str) -> list[str]:
    """A list of strings as pandas wrote it into one CSV cell.

    Lists come as Python wrote them, arrays as numpy did: without commas, which Python would read as one long string.
    A cell that is no list is one string.
    """
    cell = cell.strip()
    if cell in ("", "nan", "None"):
        return []
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    literals = _STRING.findall(cell[1:-1])
    if _STRING.sub("", cell[1:-1]).replace(",", "").strip():
        raise LongBenchError(
            f"{place}: cannot read the list {cell[:60]!r}; expected quoted strings (was it shortened?)"
        )
    try:
        return [str(ast.literal_eval(literal)) for literal in literals]
    except (ValueError, SyntaxError):
        raise LongBenchError(f"{place}: cannot read the list {cell[:60]!r}; expected quoted strings") from None
