"""`cokv eval --predictions`: every layout of every tool, from gold answers of the official samples."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call, refused

from longbench.sources import load_dataset
from suite.cli.rescore import FORMATS

DATA = os.environ.get("COKV_TEST_DATA")
official_files = pytest.mark.skipif(DATA is None, reason="COKV_TEST_DATA is not set: no official files here")


def evaluated(*arguments: object) -> dict[str, Any]:
    result = call("eval", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def refusal(*arguments: object) -> str:
    return refused(call("eval", *arguments))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def gold(name: str, count: int = 6) -> list[dict[str, Any]]:
    """Official records with their own first gold answer as prediction."""
    references = load_dataset(Path(str(DATA)) / "longbench", name, partial=True)
    return [dict(sample.record) | {"pred": sample.answers[0]} for sample in references.samples[:count]]


@official_files
@pytest.mark.parametrize("name", ["multi_news", "passage_retrieval_zh"])
@pytest.mark.parametrize("layout", ["longbench", "kvcache-factory", "kvpress", "lm-eval"])
def test_gold_answers_of_the_official_samples_get_full_marks(tmp_path, name, layout):
    rows = gold(name)
    kept = ("pred", "answers", "all_classes", "length")
    if layout == "longbench":
        path = lines(tmp_path / "pred" / f"{name}.jsonl", [{key: row[key] for key in kept} for row in rows])
    elif layout == "kvcache-factory":
        path = lines(tmp_path / "model_128" / name / "SnapKV.json", rows)
    elif layout == "kvpress":
        cells = [
            {"task": name, "predicted_answer": row["pred"], "answers": str(np.array(row["answers"], dtype=object))}
            | {"all_classes": "", "length": row["length"], "question": row["input"]}
            for row in rows
        ]
        path = table(tmp_path / "predictions.csv", cells)
    else:
        logs = [
            {"doc_id": i, "doc": row, "target": str(row["answers"]), "filter": "none", "filtered_resps": [row["pred"]]}
            for i, row in enumerate(rows)
        ]
        path = lines(tmp_path / f"samples_longbench_{name}_2026-01-31T10-20-30.123456.jsonl", logs)
    scores = evaluated("--predictions", path)[name]
    assert (scores["benchmark"], scores["score"], scores["count"]) == ("longbench", 100.0, 6)
    assert set(scores["groups"]) | set(scores["empty"]) == {"0-4k", "4-8k", "8k+"}
    assert ("rouge_score_package" in scores) == (name == "multi_news")


RULER = [("niah_multikey_3", ["7 a", "8 b"], ["7 A", "nothing"]), ("qa_1", ["Paris", "the city"], ["It is paris."])]


@pytest.mark.parametrize(("task", "references", "answers"), RULER)
@pytest.mark.parametrize("layout", ["ruler", "kvpress", "lm-eval"])
def test_ruler_predictions_of_every_tool_get_the_official_number(tmp_path, task, references, answers, layout):
    if layout == "ruler":
        rows = [
            {
                "index": i,
                "pred": text,
                "input": "…",
                "outputs": references,
                "others": {},
                "truncation": -1,
                "length": 99,
            }
            for i, text in enumerate(answers)
        ]
        path = lines(tmp_path / "4096" / "pred" / f"{task}.jsonl", rows)
    elif layout == "kvpress":
        cell = str(np.array(references, dtype=object))
        path = table(
            tmp_path / "predictions.csv",
            [{"task": task, "question": "?", "predicted_answer": text, "answer": cell} for text in answers],
        )
    else:
        name = {"qa_1": "ruler_qa_squad"}.get(task, task)
        doc = {"input": "…", "outputs": references, "max_length": 4096, "length": 99, "gen_prefix": "Answer:"}
        logs = [{"doc_id": i, "doc": doc, "target": "", "filtered_resps": [text]} for i, text in enumerate(answers)]
        path = lines(tmp_path / f"samples_{name}_2026-01-31T10-20-30.123456.jsonl", logs)
    scores = evaluated("--predictions", path)[task]
    expected = {"niah_multikey_3": ("string_match_all", 25.0, 2), "qa_1": ("string_match_part", 100.0, 1)}[task]
    assert (scores["metric"], scores["score"], scores["count"]) == expected
    assert scores["nulls"] == f"0/{len(answers)}" and scores.get("length") == (None if layout == "kvpress" else 4096)


@official_files
def test_the_official_ruler_sample_scores_full_marks(tmp_path):
    source = Path(str(DATA)) / "ruler" / "niah_multikey_3_4096.jsonl"
    rows = [json.loads(text) for text in source.read_text(encoding="utf-8").splitlines()]
    answered = [row | {"pred": " ".join(row["outputs"]), "others": {}} for row in rows]
    scores = evaluated("--predictions", lines(tmp_path / source.name, answered))["niah_multikey_3"]
    assert (scores["score"], scores["count"], scores["length"]) == (100.0, len(rows), 4096)


def test_an_lm_eval_log_of_several_lengths_keeps_them_apart(tmp_path):
    logs = [
        {"doc_id": i, "doc": {"outputs": ["7"], "max_length": length}, "target": "7", "filtered_resps": [text]}
        for i, (length, text) in enumerate([(4096, "7"), (8192, "8")])
    ]
    scores = evaluated("--predictions", lines(tmp_path / "samples_ruler_vt_2026-01-31T10-20-30.1.jsonl", logs))
    assert {name: row["score"] for name, row in scores.items()} == {"vt/4096": 100.0, "vt/8192": 0.0}


def v2_rows() -> list[dict[str, Any]]:
    """As the official pred.py writes them."""
    rows = []
    for i, (response, difficulty) in enumerate([("The correct answer is (B).", "easy"), ("I do not know", "hard")]):
        pred = "B" if i == 0 else None
        rows.append(
            {"_id": str(i), "answer": "B", "difficulty": difficulty, "length": "short", "response": response}
            | {"pred": pred, "judge": pred == "B"}
        )
    return rows


def test_version_2_results_get_the_official_columns(tmp_path):
    scores = evaluated("--predictions", lines(tmp_path / "results" / "GLM-4-9B-Chat.jsonl", v2_rows()))["longbench_v2"]
    assert scores["score"] == 50.0 and scores["groups"] == {"easy": 100.0, "hard": 0.0, "short": 50.0}
    assert set(scores["empty"]) == {"medium", "long"}
    without = [{key: value for key, value in row.items() if key != "response"} for row in v2_rows()]
    again = evaluated("--predictions", lines(tmp_path / "results" / "old.jsonl", without))["longbench_v2"]
    assert again == scores
    cells = [
        {"predicted_answer": row["response"]} | {key: row[key] for key in ("answer", "difficulty", "length")}
        for row in v2_rows()
    ]
    path = table(tmp_path / "predictions.csv", cells)
    assert evaluated("--predictions", path, "--dataset", "longbench_v2")["longbench_v2"] == scores


def test_what_no_metric_here_can_judge_is_refused(tmp_path):
    assert "no file" in refusal("--predictions", tmp_path / "none.jsonl")
    log = [{"doc_id": 0, "doc": {"answer": "a"}, "target": "a", "filtered_resps": ["a"]}]
    assert "hellaswag" in refusal("--predictions", lines(tmp_path / "samples_hellaswag_2026-01-31T10-20.jsonl", log))
    assert "expected one of" in refusal("--predictions", tmp_path / "none.jsonl", "--form", "helm")
    assert "gold answers" in refusal("--predictions", lines(tmp_path / "vt.jsonl", [{"pred": "", "outputs": []}]))


@pytest.mark.parametrize("form", ["longbench", "longbench-v2", "ruler", "lm-eval", None])
def test_a_file_without_predictions_is_refused(tmp_path, form):
    empty = lines(tmp_path / "qasper.jsonl", [])
    message = refusal("--predictions", empty, *(() if form is None else ("--form", form, "--dataset", "vt")))
    assert str(empty) in message and ("no prediction" in message or "is empty" in message)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_header_of_a_table_is_read_before_its_rows(tmp_path, count):
    rows = [{"pred": "a, b", "answers": ["a"], "all_classes": None, "length": 9 * i} for i in range(count)]
    path = lines(tmp_path / "qasper.jsonl", rows)
    assert "expected predicted_answer" in refusal("--predictions", path, "--form", "kvpress")
    only_header = tmp_path / "predictions.csv"
    only_header.write_text("task,predicted_answer,answers\n")
    assert "no prediction" in refusal("--predictions", only_header)


def test_a_wrong_path_lists_every_format(tmp_path):
    for path, what in ((tmp_path / "none.jsonl", "no file"), (tmp_path, "a folder")):
        message = refusal("--predictions", path)
        assert what in message and all(form in message for form in FORMATS)


@pytest.mark.parametrize(
    ("rows", "duplicates"),
    [
        ([("a", "1"), ("b", "2")], 0),
        ([("a", "1"), ("b", "1")], 1),  # the same sample, answered twice
        ([("a", None), ("a", None), ("a", None)], 2),
        ([("a", None), ("b", None)], 0),
    ],
)
def test_rows_that_repeat_an_earlier_one_are_counted_scored_and_said(tmp_path, rows, duplicates):
    row = {"answers": ["a"], "all_classes": None, "length": 9}
    path = tmp_path / "hotpotqa.jsonl"
    lines(path, [row | {"pred": text} | ({} if name is None else {"_id": name}) for text, name in rows])
    result = call("eval", "--predictions", path)
    scores = json.loads(result.stdout)["hotpotqa"]
    assert (scores["duplicates"], scores["count"]) == (duplicates, len(rows))
    said = f"hotpotqa: {duplicates} of {len(rows)} rows repeat an earlier one"
    assert (said in result.stderr) == (duplicates > 0) and bool(result.stderr) == (duplicates > 0)


def test_the_same_index_at_two_lengths_is_no_duplicate(tmp_path):
    logs = [
        {"doc_id": 0, "doc": {"outputs": ["7"], "max_length": length}, "target": "7", "filtered_resps": ["7"]}
        for length in (4096, 8192, 8192)
    ]
    scores = evaluated("--predictions", lines(tmp_path / "samples_ruler_vt_2026-01-31T10-20-30.1.jsonl", logs))
    assert {name: row["duplicates"] for name, row in scores.items()} == {"vt/4096": 0, "vt/8192": 1}


def test_a_ruler_file_that_was_appended_to_twice_says_so(tmp_path):
    row = {"index": 4, "input": "…", "outputs": ["7"], "others": {}, "truncation": -1, "length": 99}
    path = lines(tmp_path / "4096" / "pred" / "vt.jsonl", [row | {"pred": "7"}, row | {"pred": "8"}])
    assert evaluated("--predictions", path)["vt"]["duplicates"] == 1
