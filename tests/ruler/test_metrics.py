"""The RULER metrics equal the official ones on every recorded vector, errors included."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler.metrics import evaluate_task, postprocess_pred, string_match_all, string_match_part

METRICS = {"string_match_all": string_match_all, "string_match_part": string_match_part}


def golden(name: str) -> list[dict]:
    root = os.environ.get("COKV_TEST_DATA")
    if not root:
        pytest.skip("COKV_TEST_DATA is not set: the official vectors are not available")
    path = Path(root) / "golden" / "ruler" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def outcome(function, *args) -> tuple[object, str | None]:
    """(value, None) or (None, name of the exception's type)."""
    try:
        return function(*args), None
    except Exception as error:
        return None, type(error).__name__


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_equal_the_official_vectors(metric: str) -> None:
    for row in golden(metric):
        assert outcome(METRICS[metric], row["preds"], row["refs"]) == (row["score"], row["error"]), row["id"]


def test_postprocessing_equals_the_official_vectors() -> None:
    for row in golden("postprocess_pred"):
        assert outcome(postprocess_pred, row["text"], {}) == (row["out"], row["error"]), row["id"]


@pytest.mark.parametrize("name", ["run_evaluation_per_task", "cli_summary"])
def test_a_whole_task_equals_the_official_scorer(name: str) -> None:
    for row in golden(name):
        task = row.get("task_type") or row["task"]
        metric = string_match_part if task.startswith("qa") else string_match_all
        expected = ((row["score"], row["nulls"]), None)
        assert outcome(evaluate_task, metric, row["preds"], row["refs"]) == expected, row["id"]


def test_a_task_without_gold_answers_scores_zero_and_still_counts_nulls() -> None:
    assert evaluate_task(string_match_all, ["a", " \x00 "], [[None], [None]]) == (0.0, "1/2")


def test_all_is_a_share_and_part_is_any() -> None:
    preds, refs = ["alpha beta", "gamma"], [["Alpha", "delta"], ["gam"]]
    assert string_match_all(preds, refs) == 75.0
    assert string_match_part(preds, refs) == 100.0


def test_control_characters_become_newlines_between_words() -> None:
    assert postprocess_pred(" \x00one\x07two\x1f ") == "one\ntwo"
    assert postprocess_pred("\x7fkept") == "\x7fkept", "only codes below 32 are control characters here"


@pytest.mark.parametrize("metric", METRICS.values())
def test_no_predictions_is_an_error_not_a_zero(metric) -> None:
    with pytest.raises(ZeroDivisionError):
        metric([], [])


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), st.lists(st.text(), min_size=1, max_size=4)), min_size=1, max_size=6))
def test_scores_are_percentages_for_any_text(pairs: list[tuple[str, list[str]]]) -> None:
    preds, refs = [postprocess_pred(pred) for pred, _ in pairs], [references for _, references in pairs]
    assert 0.0 <= string_match_all(preds, refs) <= string_match_part(preds, refs) <= 100.0


@settings(deadline=None)
@given(st.text())
def test_postprocessing_leaves_no_control_character_but_newline(text: str) -> None:
    cleaned = postprocess_pred(text)
    assert all(ord(char) >= 32 or char == "\n" for char in cleaned)
    assert postprocess_pred(cleaned) == cleaned


def of_all(preds: Any, refs: Any) -> float:
    """The definition, loop by loop."""
    total = 0
    for pred, ref in zip(preds, refs, strict=False):
        total += sum(1.0 if r.lower() in pred.lower() else 0.0 for r in ref) / len(ref)
    return round(total / len(preds) * 100, 2)


def of_part(preds: Any, refs: Any) -> float:
    total = 0
    for pred, ref in zip(preds, refs, strict=False):
        total += max([1.0 if r.lower() in pred.lower() else 0.0 for r in ref])
    return round(total / len(preds) * 100, 2)


PREDS = ["", "a B", "İ ß", "\ud800", "١٢", None, 7, b"a", ["a"]]
REFS = [[], [""], ["a"], ["A", "z", "B"], ["i̇"], ["SS"], "ab", None, 7, [None], ["a", 7], [["a"]], ("a",), {"a": 1}]


def test_unusual_predictions_and_references_give_what_the_definition_gives() -> None:
    for pred, ref in product(PREDS, REFS):
        for preds, refs in (([pred], [ref]), (["a", pred], [["a"], ref]), ([pred, "a"], [ref])):
            assert outcome(string_match_all, preds, refs) == outcome(of_all, preds, refs), (preds, refs)
            assert outcome(string_match_part, preds, refs) == outcome(of_part, preds, refs), (preds, refs)
    for value in (None, 7, b"a", ["a"]):
        assert outcome(postprocess_pred, value)[1] == ("TypeError" if isinstance(value, bytes) else "AttributeError")
    assert postprocess_pred("\x85 a\u2028b\x1c ") == "a\u2028b", "stripped first, and only C0 controls are replaced"
