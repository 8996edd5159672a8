"""Data of the official generator is read from any layout, and a broken line is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ruler import RulerError, data
from ruler.data import find_files, length_of, read_file, task_of
from ruler.scoring import score

RECORD = {"index": 0, "input": "A long text. What is it?", "outputs": ["a text"], "length": 40}


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines))
    return path


@pytest.mark.parametrize(
    ("path", "task", "length"),
    [
        ("4096/vt.jsonl", "vt", 4096),
        ("4k/vt/validation.jsonl", "vt", 4096),
        ("synthetic/131072/data/qa_1/validation.jsonl", "qa_1", 131072),
        ("niah_multikey_3_4096.jsonl", "niah_multikey_3", 4096),
        ("niah_multikey_3.jsonl", "niah_multikey_3", None),
        ("qa_1-16k.jsonl", "qa_1", 16384),
        ("8192/qa_1.jsonl", "qa_1", 8192),
        ("run_2026/vt.jsonl", "vt", None),
        ("4096/qa_3.jsonl", None, 4096),
        ("4096/other.jsonl", None, 4096),
    ],
)
def test_a_path_names_its_task_and_length(path: str, task: str | None, length: int | None) -> None:
    parts = Path(path).parts
    assert (task_of(parts), length_of(parts)) == (task, length)


def test_a_folder_of_any_layout_is_listed_in_order(tmp_path: Path) -> None:
    for name in ("8192/vt.jsonl", "4096/vt/validation.jsonl", "4096/qa_1/validation.jsonl", "4096/other/test.jsonl"):
        write(tmp_path / name, RECORD)
    listed = [(f.task, f.length, str(f.path.relative_to(tmp_path))) for f in find_files(tmp_path)]
    assert listed == [
        ("vt", 4096, "4096/vt/validation.jsonl"),
        ("qa_1", 4096, "4096/qa_1/validation.jsonl"),
        ("vt", 8192, "8192/vt.jsonl"),
    ]


def test_a_folder_named_by_its_length_gives_the_length(tmp_path: Path) -> None:
    write(tmp_path / "4096" / "vt.jsonl", RECORD)
    assert [f.length for f in find_files(tmp_path / "4096")] == [4096]


def test_folders_without_tasks_or_with_one_twice_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RulerError, match="no folder"):
        find_files(tmp_path / "none")
    with pytest.raises(RulerError, match="no RULER task"):
        find_files(tmp_path)
    write(tmp_path / "a" / "vt.jsonl", RECORD)
    write(tmp_path / "b" / "vt.jsonl", RECORD)
    with pytest.raises(RulerError, match="the same task and length"):
        find_files(tmp_path)


def test_records_of_older_and_newer_versions_become_samples(tmp_path: Path) -> None:
    newer = {
        "index": 2048,
        "input": "A list. Which words?",
        "outputs": ["one", "two"],
        "length": 50,
        "length_w_model_temp": 60,
        "answer_prefix": " Answer: the words are",
    }
    path = write(tmp_path / "4096" / "cwe.jsonl", RECORD, b"", newer)
    older, read = read_file(path, seed=42)
    assert (older.context, older.question, older.answer_prefix, older.prompt) == (
        RECORD["input"],
        "",
        "",
        RECORD["input"],
    )
    assert read.prompt == "A list. Which words? Answer: the words are"
    assert [s.sample_id for s in (older, read)] == ["cwe/4096/42/0", "cwe/4096/42/1"]
    assert (read.task, read.metric, read.tokens_to_generate, read.seed) == ("cwe", "all", 120, 42)
    assert (older.length, read.length, read.gold, read.outputs) == (40, 50, None, ("one", "two"))
    assert score(read, "one, three") == 50.0


def test_the_task_can_be_named_and_must_be_known(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", RECORD)
    assert read_file(path, task="qa_2")[0].metric == "part"
    with pytest.raises(RulerError, match="names no RULER task"):
        read_file(path)
    with pytest.raises(RulerError, match="did you mean qa_"):
        read_file(path, task="qa_9")


def without(field: str) -> dict[str, Any]:
    return {k: v for k, v in RECORD.items() if k != field}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"input": "a", ', r"line 2: broken JSON \(.* at column \d+\)"),
        ('{"input": "caf\u00e9"}'.encode("latin-1"), "line 2: not UTF-8"),
        (b"\xff\xfe{", "line 2: not UTF-8"),
        (b"[1, 2]", "line 2: a JSON list"),
        (b"null", "line 2: a JSON NoneType"),
        (b"[" * 100_000, "line 2: cannot be parsed"),
        (b'{"length": ' + b"9" * 5000 + b"}", "line 2: cannot be parsed"),
        (without("input"), "line 2: no field 'input'; .* got index, length, outputs"),
        (without("outputs"), "line 2: no field 'outputs'"),
        (without("length"), "line 2: no field 'length'"),
        (RECORD | {"input": 7}, "line 2: 'input' is a int; expected a string"),
        (RECORD | {"input": "  "}, "line 2: 'input' is empty"),
        (RECORD | {"input": "\ud800"}, "line 2: 'input' holds half a surrogate pair"),
        (RECORD | {"answer_prefix": None}, "line 2: 'answer_prefix' is null"),
        (RECORD | {"outputs": "a text"}, "line 2: 'outputs' is a str; expected a list"),
        (RECORD | {"outputs": []}, "line 2: 'outputs' is an empty list"),
        (RECORD | {"outputs": [3]}, "line 2: 'outputs' holds a int"),
        (RECORD | {"outputs": [None]}, "line 2: 'outputs' holds null"),
        (RECORD | {"outputs": ["a", ""]}, "line 2: 'outputs' holds an empty string"),
        (RECORD | {"length": "40"}, "line 2: 'length' is a str; expected a count"),
        (RECORD | {"length": True}, "line 2: 'length' is a bool"),
        (RECORD | {"length": 40.5}, "line 2: 'length' is a float"),
        (RECORD | {"length": 0}, "line 2: 'length' is 0"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "vt.jsonl", RECORD, line, RECORD)
    with pytest.raises(RulerError, match=message) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_hold_nothing_or_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RulerError, match="is empty"):
        read_file(write(tmp_path / "vt.jsonl"))
    with pytest.raises(RulerError, match="is empty"):
        read_file(write(tmp_path / "fwe.jsonl", b"", b"  "))
    with pytest.raises(RulerError, match="cannot read"):
        read_file(tmp_path / "qa_1.jsonl")


def test_an_endless_line_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "LINE_LIMIT", 100)
    path = write(tmp_path / "vt.jsonl", RECORD, b"x" * 10_000)
    with pytest.raises(RulerError, match="line 2: longer than 100 bytes"):
        read_file(path)


def test_the_official_files_are_read(official) -> None:
    files = find_files(official("ruler"))
    assert files
    for file in files:
        samples = read_file(file.path)
        lines = file.path.read_text(encoding="utf-8").splitlines()
        assert len(samples) == len(lines)
        for sample, line in zip(samples, lines, strict=True):
            record = json.loads(line)
            assert sample.context == record["input"]
            assert list(sample.outputs) == record["outputs"]
            assert file.length is None or sample.length <= file.length
            assert score(sample, " ".join(sample.outputs)) == 100.0
            assert all(reference in sample.prompt for reference in sample.outputs)
