"""Predictions of other tools get the official score."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longbench.errors import LongBenchError
from longbench.metrics import scorer, scorer_e
from longbench.predictions import parse_cell_list, read_predictions
from longbench.rescoring import score_predictions


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def own_rows(world: Any, dataset: str, count: int = 6) -> list[dict[str, Any]]:
    """LongBench's own fields: every second prediction is the gold answer."""
    records = world.records(dataset, count)
    return [
        {key: record[key] for key in ("answers", "all_classes", "length")}
        | {"pred": record["answers"][0] if index % 2 else "nothing"}
        for index, record in enumerate(records)
    ]


@pytest.mark.parametrize("dataset", ["qasper", "trec", "passage_count", "lcc", "samsum"])
def test_official_prediction_files_get_the_official_score(world: Any, tmp_path: Path, dataset: str) -> None:
    rows = own_rows(world, dataset)
    scores = score_predictions(read_predictions(write_lines(tmp_path / f"{dataset}.jsonl", rows)))[dataset]
    columns = [[row[key] for row in rows] for key in ("pred", "answers", "length")]
    classes = rows[-1]["all_classes"]
    assert scores.score == scorer(dataset, columns[0], columns[1], classes) > 40
    by_length = scorer_e(dataset, *columns, classes)
    assert scores.groups == {name: score for name, score in by_length.items() if score == score}, "all but NaN"
    assert set(scores.empty) == set(by_length) - set(scores.groups)
    assert scores.count == 6 and len(scores.samples) == 6 and scores.second is None


def test_kvcache_factory_files_are_named_by_their_folder(world: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "llama_128" / "qasper" / "SnapKV.json", own_rows(world, "qasper"))
    assert set(score_predictions(read_predictions(path))) == {"qasper"}


def test_the_second_column_is_for_summaries(world: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "gov_report.jsonl", own_rows(world, "gov_report"))
    score = score_predictions(read_predictions(path), second=True)["gov_report"]
    assert score.second is not None and 0 <= score.second <= 100


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def kvpress_rows(world: Any, dataset: str) -> list[dict[str, Any]]:
    """As pandas writes them: arrays of strings without commas."""
    rows = []
    for row in own_rows(world, dataset):
        answers = str(np.array([*row["answers"], 'it\'s a "quoted"\nline'], dtype=object))
        classes = "" if row["all_classes"] is None else str(np.array(row["all_classes"], dtype=object))
        rows.append(
            {
                "task": dataset,
                "predicted_answer": row["pred"],
                "answers": answers,
                "all_classes": classes,
                "length": row["length"],
            }
        )
    return rows


@pytest.mark.parametrize("dataset", ["qasper", "trec", "passage_retrieval_zh"])
def test_kvpress_files_get_the_official_score(world: Any, tmp_path: Path, dataset: str) -> None:
    path = write_csv(tmp_path / "predictions.csv", kvpress_rows(world, dataset))
    predictions = read_predictions(path)
    assert all(item.references[-1] == 'it\'s a "quoted"\nline' and len(item.references) > 1 for item in predictions)
    if dataset == "passage_retrieval_zh":
        with pytest.raises(LongBenchError, match="expected the official gold answers"):
            score_predictions(predictions)
    else:
        rows = own_rows(world, dataset)
        score = score_predictions(predictions)[dataset]
        expected = scorer(dataset, [r["pred"] for r in rows], [r["answers"] for r in rows], rows[-1]["all_classes"])
        assert score.score >= expected > 0
        assert [item.length for item in predictions] == [row["length"] for row in rows]


def lm_eval_rows(world: Any, dataset: str) -> list[dict[str, Any]]:
    records = world.records(dataset, 4)
    return [
        {"doc_id": index, "doc": record, "target": record["answers"], "filter": "none"}
        | {"resps": [[record["answers"][0]]], "filtered_resps": [record["answers"][0]]}
        for index, record in enumerate(records)
    ]


def test_lm_eval_logs_get_the_official_score(world: Any, tmp_path: Path) -> None:
    name = "samples_longbench_qasper_e_2025-01-31T10-20-30.123456.jsonl"
    score = score_predictions(read_predictions(write_lines(tmp_path / name, lm_eval_rows(world, "qasper"))))
    assert score["qasper_e"].score == 100.0


def test_tasks_of_other_benchmarks_are_read_but_not_scored_here(world: Any, tmp_path: Path) -> None:
    rows = [{"task": "niah_single_1", "predicted_answer": "7", "answer": "['7' '8']"}]
    predictions = read_predictions(write_csv(tmp_path / "predictions.csv", rows))
    assert predictions[0].references == ("7", "8") and predictions[0].task == "niah_single_1"
    with pytest.raises(LongBenchError, match="'niah_single_1', expected data sets among"):
        score_predictions(predictions)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_lists_survive_a_csv_cell_with_and_without_commas(words: list[str]) -> None:
    assert parse_cell_list(str(words), "here") == words
    assert parse_cell_list("[" + "\n ".join(map(repr, words)) + "]", "here") == words


def test_a_list_that_numpy_shortened_is_refused() -> None:
    with pytest.raises(LongBenchError, match="was it shortened"):
        parse_cell_list("['a' 'b' ... 'z']", "here")


def bad(tmp_path: Path, world: Any) -> dict[str, tuple[Path, str]]:
    row = own_rows(world, "qasper", 1)[0]
    log = lm_eval_rows(world, "qasper")
    csv_row = kvpress_rows(world, "qasper")[0]
    no_answers = {key: value for key, value in csv_row.items() if key != "answers"}
    short = write_csv(tmp_path / "short.csv", [csv_row])
    short.write_text(short.read_text() + "qasper,x\n")
    quote = tmp_path / "quote.csv"
    quote.write_text('task,predicted_answer,answers\nqasper,"open,[]')
    return {
        "no file": (tmp_path / "none.jsonl", "is no file"),
        "no pred": (write_lines(tmp_path / "a" / "qasper.jsonl", [{"answers": []}]), "line 1: no field pred"),
        "pred null": (write_lines(tmp_path / "b" / "qasper.jsonl", [row | {"pred": None}]), "'prediction' is null"),
        "nameless": (write_lines(tmp_path / "c" / "out.jsonl", [row]), "cannot tell the data set"),
        "two filters": (
            write_lines(tmp_path / "samples_longbench_qasper_x.jsonl", [log[0], log[1] | {"filter": "strict"}]),
            "filters none, strict",
        ),
        "two answers": (
            write_lines(tmp_path / "samples_longbench_qasper_y.jsonl", [log[0] | {"filtered_resps": ["a", "b"]}]),
            "2 responses",
        ),
        "csv without answers": (write_csv(tmp_path / "p.csv", [no_answers]), "expected predicted_answer, answers"),
        "csv row too short": (short, "more or fewer cells"),
        "csv quote": (quote, "broken CSV|cells"),
    }


def test_files_that_cannot_be_scored_are_refused_with_one_line(tmp_path: Path, world: Any) -> None:
    for kind, (path, pattern) in bad(tmp_path, world).items():
        with pytest.raises(LongBenchError, match=pattern) as caught:
            read_predictions(path)
        assert "\n" not in str(caught.value), kind


def test_classes_that_are_missing_are_asked_for(world: Any, tmp_path: Path) -> None:
    rows = [row | {"all_classes": None} for row in own_rows(world, "trec")]
    with pytest.raises(LongBenchError, match="expected all_classes of trec"):
        score_predictions(read_predictions(write_lines(tmp_path / "trec.jsonl", rows)))


def test_the_data_set_and_the_format_can_be_given(world: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "out.jsonl", own_rows(world, "qasper"))
    assert {item.task for item in read_predictions(path, form="longbench", dataset="qasper")} == {"qasper"}
    with pytest.raises(LongBenchError, match="expected one of longbench, longbench-v2, kvpress, lm-eval"):
        read_predictions(path, form="helm")
