"""Buckets of LongBench-E and columns of version 2: the official numbers, and a reason where there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from longbench.metrics import length_bucket, sample_score, scorer_e
from longbench.official import by_length, groups_of, judge_sample, official_scores
from longbench.v2 import accuracy


def test_names_of_both_versions_are_judged() -> None:
    assert judge_sample("qasper_e", "a lamp", ["lamp"]) == judge_sample("qasper", "a lamp", ["lamp"]) == 1.0
    assert judge_sample("trec_e", "Planet\nRiver", ["Planet"], ["Planet", "River"]) == 1.0
    assert judge_sample("longbench_v2", "**The correct answer is (B)**", ["B"]) == 1.0
    assert judge_sample("longbench_v2", "B", ["B"]) == 0.0


def test_a_record_knows_its_groups(world: Any) -> None:
    assert groups_of("qasper", world.record(0)) == {}
    assert [groups_of("qasper_e", world.record(0, length=n))["length"] for n in (3999, 4000, 8000)] == [
        "0-4k",
        "4-8k",
        "8k+",
    ]
    assert groups_of("longbench_v2", {"difficulty": "hard", "length": "long"}) == {
        "difficulty": "hard",
        "length": "long",
    }


def test_buckets_equal_the_official_vectors(golden: Callable[[str], list[dict[str, Any]]]) -> None:
    for row in golden("scorer_e"):
        if row["error"] is not None or not row["predictions"]:
            continue
        values = [
            sample_score(row["dataset"], prediction, truths, row["all_classes"])
            for prediction, truths in zip(row["predictions"], row["answers"], strict=False)
        ]
        scores = by_length(values, [length_bucket(length) for length in row["lengths"][: len(values)]])
        assert scores["groups"] == {name: score for name, score in row["score"].items() if score is not None}, row["id"]
        assert set(scores.get("empty", {})) == {name for name, score in row["score"].items() if score is None}


def test_an_empty_bucket_is_absent_with_its_reason_and_json_holds_no_nan(world: Any) -> None:
    groups = [groups_of("qasper_e", world.record(0, length=n)) for n in (10, 20, 9000)]
    scores = official_scores("qasper_e", [1.0, 0.0, 1.0], groups)
    assert scores == {
        "score": 66.67,
        "groups": {"0-4k": 50.0, "8k+": 100.0},
        "empty": {"4-8k": "no sample of 4000 to 7999 words"},
    }
    assert math.isnan(scorer_e("qasper", ["a b"], [["b"]], [10], None)["4-8k"]), "the official function keeps its NaN"
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert official_scores("qasper", [1.0, 0.0], [{}, {}]) == {"score": 50.0}


@pytest.mark.parametrize("difficulties", [("easy", "hard"), ("hard", "hard")])
def test_v2_columns_are_the_official_tables(difficulties: tuple[str, str]) -> None:
    groups = [{"difficulty": name, "length": "short"} for name in difficulties]
    scores = official_scores("longbench_v2", [1.0, 0.0], groups)
    table = accuracy([{"pred": "A", "judge": ok, **group} for ok, group in zip((True, False), groups, strict=True)])
    assert {"overall": scores["score"], **scores["groups"]} == table
    assert {"medium", "long"} <= set(scores["empty"]) and ("easy" in scores["empty"]) == ("easy" not in difficulties)
