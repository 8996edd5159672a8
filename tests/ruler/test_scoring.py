"""A sample's score is the official metric's, and a task's score is made of its samples' to the last digit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler import RulerError
from ruler.metrics import evaluate_task, string_match_all, string_match_part
from ruler.scoring import score, task_score

METRICS = {"all": string_match_all, "part": string_match_part}


@pytest.mark.parametrize("name", ["run_evaluation_per_task", "cli_summary"])
def test_scores_of_samples_make_the_official_number(official, name: str) -> None:
    checked = 0
    for line in official(f"golden/ruler/{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        metric = "part" if (row.get("task_type") or row["task"]).startswith("qa") else "all"
        assert evaluate_task(METRICS[metric], row["preds"], row["refs"])[0] == row["score"], row["id"]
        if row["refs"][0][0] is not None:
            scores = [score(metric, pred, refs) for pred, refs in zip(row["preds"], row["refs"], strict=True)]
            assert task_score(scores) == row["score"], row["id"]
            checked += 1
    assert checked


words = st.text(alphabet="abcx ", min_size=1, max_size=4)


@settings(deadline=None)
@given(
    st.sampled_from(["all", "part"]),
    st.lists(
        st.tuples(st.text(alphabet="abcx \x00\n"), st.lists(words, min_size=1, max_size=13)), min_size=1, max_size=40
    ),
)
def test_task_score_is_the_official_metric_on_any_samples(metric: str, pairs: list[tuple[str, list[str]]]) -> None:
    preds, refs = [p for p, _ in pairs], [r for _, r in pairs]
    scores = [score(metric, p, r) for p, r in pairs]
    assert task_score(scores) == evaluate_task(METRICS[metric], preds, refs)[0]
    assert all(0.0 <= s <= 100.0 for s in scores)
    assert task_score(scores) == pytest.approx(sum(scores) / len(scores), abs=0.0051)


def test_all_is_a_share_and_part_is_any() -> None:
    assert score("all", "Alpha, beta", ["alpha", "gamma", "BETA"]) == pytest.approx(200 / 3)
    assert score("part", "Alpha, beta", ["alpha", "gamma", "BETA"]) == 100.0
    assert score("part", "nothing", ["alpha"]) == 0.0


def test_the_prediction_is_post_processed_first() -> None:
    assert score("all", "one\x07two", ["one\ntwo"]) == 100.0
    assert score("all", " one ", [" one"]) == 0.0


def test_what_cannot_be_scored_is_an_error() -> None:
    with pytest.raises(RulerError, match="at least one string"):
        score("all", "x", [])
    with pytest.raises(RulerError, match="expected a list"):
        score("all", "x", "abc")
    with pytest.raises(RulerError, match="expected all or part"):
        score("some", "x", ["x"])
    with pytest.raises(RulerError, match="no scores"):
        task_score([])
