"""Laws of the metrics: order does not matter, missing stays missing, intervals contain their mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import ReportError, aggregate

Make = Callable[..., dict[str, Any]]
SCORES = st.one_of(st.none(), st.floats(0, 100), st.sampled_from([0.0, 100.0]))


def cell(metrics: dict[str, Any], part: str = "cells", **where: Any) -> dict[str, Any]:
    rows = [row for row in metrics[part] if all(row.get(key) == value for key, value in where.items())]
    assert len(rows) == 1, f"{len(rows)} rows of {part} for {where}"
    return rows[0]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_order_of_records_gives_the_same_bytes(data: st.DataObject, record: Make) -> None:
    records = [
        record(method, None if method == "full" else 64, data.draw(SCORES), sample, task=task)
        for method in ("full", "snapkv", "cokv")
        for task in ("a", "b")
        for sample in range(data.draw(st.integers(1, 4)))
    ]
    shuffled = data.draw(st.permutations(records))
    assert json.dumps(aggregate(records)) == json.dumps(aggregate(shuffled))


@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.floats(0, 100), min_size=2, max_size=30))
def test_the_interval_contains_the_mean_and_the_mean_is_the_mean(scores: list[float], record: Make) -> None:
    row = aggregate([record(score=score, sample=i) for i, score in enumerate(scores)])["cells"][0]
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["mean"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert row["low"] >= 0 and row["high"] <= 100


def test_the_interval_covers_the_truth_about_as_often_as_it_says(record: Make) -> None:
    rng = np.random.default_rng(3)
    drawn = rng.random((120, 60)) < 0.7
    hits = 0
    for scores in drawn:
        row = aggregate([record(score=100.0 * score, sample=i) for i, score in enumerate(scores)])["cells"][0]
        hits += row["low"] <= 70.0 <= row["high"]
    assert 0.87 <= hits / len(drawn) <= 1.0  # 95% less three standard errors of this count


def test_more_samples_narrow_the_interval_like_the_square_root(record: Make) -> None:
    def width(n: int) -> float:
        row = aggregate([record(score=100.0 * (i % 2), sample=i) for i in range(n)])["cells"][0]
        return float(row["high"] - row["low"])

    assert width(40) / width(640) == pytest.approx(4, rel=0.2)


def test_other_tasks_and_methods_do_not_move_a_number(records: list[dict[str, Any]]) -> None:
    whole = aggregate(records)
    part = aggregate([r for r in records if r["task"] == "vt" and r["method"] in ("snapkv", "cokv")])
    for row in part["cells"]:
        assert row in whole["cells"]
    for row in part["differences"]:
        assert row in whole["differences"]


def test_an_infeasible_cell_has_its_reason_and_no_number(record: Make) -> None:
    metrics = aggregate([record("duoattention", 64, None, i, task=task) for i in range(3) for task in ("a", "b")])
    row = cell(metrics, task="a")
    assert (row["n"], row["feasible"]) == (3, 0)
    assert list(row["infeasible"].values()) == [3] and "sink + window" in next(iter(row["infeasible"]))
    assert not {"mean", "low", "high", "kept_bytes", "kept_share"} & set(row)


def test_an_average_with_a_missing_task_is_missing_and_names_it(record: Make) -> None:
    metrics = aggregate(
        [
            record(score=80.0, task="a"),
            record(score=None, task="b"),
            record("cokv", score=60.0, task="a"),
            record("cokv", score=40.0, task="b"),
        ]
    )
    incomplete = cell(metrics, "averages", method="snapkv")
    assert incomplete["missing"] == ["b"] and "mean" not in incomplete
    assert cell(metrics, "averages", method="cokv")["mean"] == 50.0


def test_a_partly_infeasible_cell_averages_only_what_there_is(record: Make) -> None:
    row = aggregate([record(score=90.0, sample=0), record(score=None, sample=1), record(score=70.0, sample=2)])[
        "cells"
    ][0]
    assert (row["n"], row["feasible"], row["mean"]) == (3, 2, 80.0)


def test_one_sample_has_a_mean_and_no_interval(record: Make) -> None:
    row = aggregate([record(score=40.0)])["cells"][0]
    assert row["mean"] == 40.0 and "low" not in row and "high" not in row


def test_the_average_gives_every_task_the_same_weight(record: Make) -> None:
    many = [record(score=100.0, sample=i, task="a") for i in range(9)]
    metrics = aggregate([*many, record(score=0.0, task="b")])
    assert metrics["averages"][0]["mean"] == 50.0


def test_full_stands_under_no_budget_and_enters_no_difference(records: list[dict[str, Any]]) -> None:
    metrics = aggregate(records)
    full = [row for row in metrics["cells"] if row["method"] == "full"]
    assert full and all(row["kv_budget"] is None for row in full)
    compared = {row["method"] for row in metrics["differences"]}
    assert compared == {"streamingllm", "pyramidkv", "adakv", "duoattention", "cokv"}


def test_differences_are_paired_sample_by_sample(record: Make) -> None:
    """A gain of about 5 on samples that differ wildly: unpaired intervals would be wider by far."""
    base = [record("snapkv", score=float(3 * i), sample=i) for i in range(30)]
    compared = [record("cokv", score=3.0 * i + 5 + i / 15, sample=i) for i in range(30)]
    metrics = aggregate([*compared[::-1], *base])
    row, unpaired = metrics["differences"][0], metrics["cells"][0]
    assert (row["mean"], row["n"], row["verdict"]) == (pytest.approx(5.9667, abs=1e-3), 30, "better")
    assert 0 < row["low"] < 6 < row["high"] and row["high"] - row["low"] < unpaired["high"] - unpaired["low"]


def test_a_difference_uses_only_samples_feasible_in_both(record: Make) -> None:
    base = [record("snapkv", score=50.0, sample=i) for i in (0, 1, 2)]
    compared = [
        record("cokv", score=60.0, sample=1),
        record("cokv", score=None, sample=2),
        record("cokv", score=0.0, sample=9),
    ]
    row = aggregate([*base, *compared])["differences"][0]
    assert (row["n"], row["mean"]) == (1, 10.0)


def test_without_common_samples_there_is_no_difference_but_a_row(record: Make) -> None:
    metrics = aggregate([record("snapkv", score=50.0), record("cokv", score=None)])
    assert metrics["differences"][0]["n"] == 0 and "mean" not in metrics["differences"][0]
    assert metrics["differences_all_tasks"][0]["missing"] == ["niah_single_1"]


@pytest.mark.parametrize(("gains", "word"), [(7, "better"), (6, "no difference shown"), (-7, "worse")])
def test_a_verdict_needs_as_many_differing_pairs_as_its_p_value_does(record: Make, gains: int, word: str) -> None:
    """Of k pairs that all favour one side p is 2 / 2^k, and half of the table's 5 % is the cells': 7 of them do."""
    n, size = abs(gains), 40.0 if gains > 0 else -40.0
    base = [record("snapkv", score=50.0, sample=i) for i in range(n)]
    compared = [record("cokv", score=50.0 + size, sample=i) for i in range(n)]
    row = aggregate([*base, *compared])["differences"][0]
    assert row["p"] == pytest.approx(2.0 ** (1 - n), rel=1e-3)
    assert row["p_holm"] == pytest.approx(2 * row["p"], rel=1e-3)
    assert (row["verdict"], row["significant"]) == (word, word != "no difference shown")


def test_equal_methods_are_seldom_told_apart(record: Make) -> None:
    rng = np.random.default_rng(5)
    words = []
    for _ in range(100):
        base = [record("snapkv", score=100.0 * (rng.random() < 0.6), sample=i) for i in range(40)]
        compared = [record("cokv", score=100.0 * (rng.random() < 0.6), sample=i) for i in range(40)]
        words.append(aggregate([*base, *compared])["differences"][0]["verdict"])
    assert words.count("no difference shown") >= 87


def test_the_baseline_can_be_any_method_and_may_be_absent(records: list[dict[str, Any]]) -> None:
    assert {row["method"] for row in aggregate(records, baseline="adakv")["differences"]} >= {"snapkv", "cokv"}
    assert aggregate(records, baseline="nobody")["differences"] == []


def test_presets_and_protocols_are_never_mixed(record: Make) -> None:
    metrics = aggregate(
        [
            record("snapkv", score=10.0),
            record("snapkv", score=30.0, preset="official"),
            record("snapkv", score=50.0, query_aware=False),
            record("snapkv", score=70.0, first_token="compressed"),
        ]
    )
    assert sorted(row["mean"] for row in metrics["cells"]) == [10.0, 30.0, 50.0, 70.0]
    compared = metrics["differences"]
    assert [(row["preset"], row["mean"]) for row in compared] == [("official", 20.0)]


def test_measured_bytes_stand_beside_the_nominal_budget(record: Make) -> None:
    rows = [record(kv_budget=64, prompt_tokens=1000), record(kv_budget=64, prompt_tokens=600, sample=1)]
    memory = aggregate(rows)["memory"][0]
    assert memory["nominal_share"] == 0.08 and memory["kept_share"] == 0.08
    assert memory["kept_bytes"] == 64 * 16 * 256 and memory["slack_bytes"] == 16 * 16 * 256
    assert memory["slack_share"] == 0.02


def test_unstated_bytes_are_absent(record: Make) -> None:
    rows = [{key: value for key, value in record().items() if key not in ("kept_bytes", "slack_bytes")}]
    memory = aggregate(rows)["memory"][0]
    assert (
        not {"kept_bytes", "kept_share", "slack_bytes", "slack_share"} & set(memory) and memory["kept_tokens"] == 1024
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": -1}, "0..100"),
        ({"score": float("nan")}, "0..100"),
        ({"score": 101}, "0..100"),
        ({"score": "50"}, "0..100"),
        ({"score": True}, "0..100"),
        ({"score": None, "infeasible": None}, "must say why"),
        ({"infeasible": "no room"}, "cannot be infeasible"),
        ({"kv_budget": 0}, "kv_budget"),
        ({"kv_budget": "64"}, "kv_budget"),
        ({"task": ""}, "task"),
        ({"seed": None}, "seed"),
        ({"query_aware": "yes"}, "query_aware"),
        ({"kept_bytes": -4}, "kept_bytes"),
    ],
)
def test_a_wrong_record_is_refused_in_one_line(record: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ReportError, match=message) as caught:
        aggregate([{**record(), **change}])
    assert "\n" not in str(caught.value)


def test_a_record_twice_is_refused(record: Make) -> None:
    with pytest.raises(ReportError, match="recorded twice"):
        aggregate([record(score=1.0), record(score=2.0)])


def test_no_records_give_empty_metrics() -> None:
    metrics = aggregate([])
    assert metrics["cells"] == [] and metrics["differences"] == [] and metrics["records"] == 0
