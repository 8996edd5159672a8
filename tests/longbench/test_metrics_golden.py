"""Every recorded official value is reproduced with ==, type and errors included."""

from __future__ import annotations

import math

import pytest

from longbench import metrics, v2

PER_SAMPLE = (
    "classification_score",
    "code_sim_score",
    "count_score",
    "qa_f1_score",
    "qa_f1_zh_score",
    "retrieval_score",
    "retrieval_zh_score",
    "rouge_score",
    "rouge_zh_score",
)
TEXT = {
    "normalize_answer": metrics.normalize_answer,
    "normalize_zh_answer": metrics.normalize_zh_answer,
    "v2_extract_answer": v2.extract_answer,
}


def outcome(function, *args, **kwargs) -> tuple[object, str | None]:
    """(value, None) or (None, name of the exception's type)."""
    try:
        return function(*args, **kwargs), None
    except Exception as error:
        return None, type(error).__name__


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_sample_metrics_equal_the_official_vectors(name: str, golden) -> None:
    for row in golden(name):
        classes = {"all_classes": row["all_classes"]} if "all_classes" in row else {}
        scores = outcome(getattr(metrics, name), row["prediction"], row["answer"], **classes)
        assert scores == (row["score"], row["error"]), row["id"]
        assert type(scores[0]) is type(row["score"]), row["id"]


@pytest.mark.parametrize("name", TEXT)
def test_text_functions_equal_the_official_vectors(name: str, golden) -> None:
    for row in golden(name):
        assert outcome(TEXT[name], row["text"]) == (row["out"], row["error"]), row["id"]


def test_scorer_equals_the_official_vectors(golden) -> None:
    for row in golden("scorer"):
        scores = outcome(metrics.scorer, row["dataset"], row["predictions"], row["answers"], row["all_classes"])
        assert scores == (row["score"], row["error"]), row["id"]


def test_scorer_e_equals_the_official_vectors(golden) -> None:
    for row in golden("scorer_e"):
        value, error = outcome(
            metrics.scorer_e, row["dataset"], row["predictions"], row["answers"], row["lengths"], row["all_classes"]
        )
        if value is not None:
            value = {bucket: None if math.isnan(score) else score for bucket, score in value.items()}
        assert (value, error) == (row["score"], row["error"]), row["id"]


def test_code_similarity_is_difflibs_where_levenshtein_gives_another_number(golden) -> None:
    other = {row["id"]: row["score"] for row in golden("code_sim_score_levenshtein")}
    rows = golden("code_sim_score")
    different = [row for row in rows if other[row["id"]] != row["score"]]
    assert different, "the two back ends must disagree somewhere, or this test shows nothing"
    for row in different:
        assert metrics.code_sim_score(row["prediction"], row["answer"]) == row["score"], row["id"]
