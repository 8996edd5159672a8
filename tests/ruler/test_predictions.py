"""Files of the official call_api.py get the number the official evaluate.py prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ruler import RulerError
from ruler.predictions import Answer, is_official_file, official_name, read_answers, score_answers
from ruler.tasks import TASKS


def line(pred: Any = "It is 7.", outputs: Any = ("7",), **more: Any) -> dict[str, Any]:
    """One line as call_api.py writes it."""
    facts = {"index": 0, "input": "Which number?", "others": {}, "truncation": -1, "length": 812}
    return facts | {"pred": pred, "outputs": list(outputs) if isinstance(outputs, tuple) else outputs} | more


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["run_evaluation_per_task", "cli_summary"])
def test_official_files_get_the_official_summary(official, tmp_path: Path, name: str) -> None:
    for text in official(f"golden/ruler/{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        if row["refs"][0][0] is None or not all(isinstance(r, str) for refs in row["refs"] for r in refs):
            continue
        task = row.get("task") or ("qa_1" if row["task_type"].startswith("qa") else "vt")
        lines = [line(p, refs) for p, refs in zip(row["preds"], row["refs"], strict=True)]
        (rows,) = score_answers(read_answers(write(tmp_path / "4096" / "pred" / f"{task}.jsonl", *lines)))
        assert (rows.score, rows.nulls, rows.length) == (row["score"], row["nulls"], 4096), row["id"]


@pytest.mark.parametrize(
    ("path", "task", "length"),
    [
        ("model/synthetic/131072/pred/qa_2.jsonl", "qa_2", 131072),
        ("4096/pred/niah_single_1-3.jsonl", "niah_single_1", 4096),
        ("pred/cwe.jsonl", "cwe", None),
    ],
)
def test_the_path_names_task_and_length(tmp_path: Path, path: str, task: str, length: int | None) -> None:
    (answer,) = read_answers(write(tmp_path / path, line()))
    assert (answer.task, answer.length) == (task, length)


def test_older_files_with_one_output_are_read_as_officially(tmp_path: Path) -> None:
    record = {name: value for name, value in line().items() if name != "outputs"} | {"output": "7"}
    (answer,) = read_answers(write(tmp_path / "vt.jsonl", record))
    assert answer.references == ("7",) and is_official_file(record)


def test_tasks_and_lengths_stay_apart() -> None:
    answers = [Answer("vt", length, text, ("a", "b")) for length, text in ((4096, "a"), (8192, "a b"), (4096, ""))]
    answers.append(Answer("qa_1", None, "b", ("a", "b")))
    rows = [(row.task, row.length, row.score, row.nulls, row.count) for row in score_answers(answers)]
    assert rows == [("vt", 4096, 25.0, "1/2", 2), ("vt", 8192, 100.0, "0/1", 1), ("qa_1", None, 100.0, "0/1", 1)]


def test_other_names_of_tasks_are_known() -> None:
    assert official_name("ruler_qa_hotpot") == "qa_2" and official_name("ruler_vt") == "vt"
    assert [official_name(name) for name in TASKS["official"]] == list(TASKS["official"])
    assert official_name("qasper") is None and official_name("longbench_qasper") is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (line(pred=None), "line 1: no text in 'pred'"),
        ({"outputs": ["a"]}, "line 1: no text in 'pred'"),
        ({"pred": "a"}, "gold answers"),
        (line(outputs="7"), "gold answers"),
        (line(outputs=[]), "gold answers"),
        (line(outputs=[None]), "gold answers"),
        (line(outputs=[7]), "gold answers"),
        ([1], "line 1: a JSON list"),
    ],
)
def test_lines_that_cannot_be_judged_are_refused(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(RulerError, match=message) as caught:
        read_answers(write(tmp_path / "vt.jsonl", record))
    assert "\n" not in str(caught.value)


def test_files_without_a_task_or_a_line_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RulerError, match="names no RULER task"):
        read_answers(write(tmp_path / "out.jsonl", line()))
    with pytest.raises(RulerError, match="names no RULER task"):
        read_answers(write(tmp_path / "vt.jsonl", line()), task="qasper")
    assert read_answers(write(tmp_path / "out.jsonl", line()), task="ruler_cwe")[0].task == "cwe"
    with pytest.raises(RulerError, match="is empty"):
        read_answers(write(tmp_path / "vt.jsonl"))
