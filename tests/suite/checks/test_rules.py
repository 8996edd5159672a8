"""Verdicts at their edges: on which side of its bar an interval lies, and where nothing can be decided."""

import pytest

from suite.checks.rules import (
    FEWEST,
    RULES,
    WITHIN,
    corrected,
    judged,
    judged_order,
    judged_reached,
    rules_as_json,
)

TINY = 1e-9


def between(low: float, high: float, **facts) -> dict:
    return {"score": (low + high) / 2, "low": low, "high": high, **facts}


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        ("mae", 0.2, 1 - TINY, "holds"), ("mae", 0.2, 1.0, "undecided"), ("mae", 1.0, 2.0, "does not hold"),
        ("mae", 1 - TINY, 2.0, "undecided"),
        ("reliability", 0.9, 0.99, "holds"), ("reliability", 0.9 - TINY, 0.99, "undecided"),
        ("reliability", 0.5, 0.9, "undecided"), ("reliability", 0.5, 0.9 - TINY, "does not hold"),
        ("top tenth", 0.0, 30 - TINY, "holds"), ("top tenth", 0.0, 30.0, "undecided"),
        ("top tenth", 30.0, 90.0, "does not hold"),
        ("bottom third", 80.0, 101.0, "holds"), ("bottom third", 80 - TINY, 99.0, "undecided"),
        ("bottom third", 10.0, 80 - TINY, "does not hold"),
        ("exact order", 0.8, 0.8, "holds"), ("exact order", 0.8 - TINY, 0.8 - TINY, "does not hold"),
    ],
)  # fmt: skip
def test_an_interval_decides_only_where_it_is_whole_on_one_side(rule, low, high, verdict):
    assert judged(rule, between(low, high), 20)["verdict"] == verdict


@pytest.mark.parametrize("rule", ["gain", "more than random", "less than random"])
def test_a_paired_difference_needs_an_interval_beside_0(rule):
    def verdict(low, high):
        return judged(rule, between(low, high), 20)["verdict"]

    assert verdict(TINY, 5.0) == "holds" and verdict(-5.0, 0.0) == "does not hold"
    assert verdict(0.0, 5.0) == "undecided" and verdict(-5.0, TINY) == "undecided"


def row(p: float, low: float = 1.0, rule: str = "gain", **facts) -> dict:
    estimate = between(low, low + 4, p=p)
    return {"check": "alpha", **estimate, **judged(rule, estimate, 20), **facts}


def test_the_rows_of_a_check_are_corrected_together():
    """Holm: 0.05 / 3, 0.05 / 2, 0.05; an undecided row counts, one without an estimate does not."""
    rows = [row(0.016), row(0.024), row(0.03), {"check": "alpha", "what": "", "not_run": "no profile"}]
    assert [r.get("verdict") for r in corrected(rows[:1])] == ["holds"]
    assert [r.get("verdict") for r in corrected(rows)] == ["holds", "holds", "holds", None]
    assert [r.get("p_holm") for r in corrected(rows)] == pytest.approx([0.048, 0.048, 0.048, None])
    wider = corrected([row(0.017), row(0.024), row(0.9, low=-2.0)])
    assert [r["verdict"] for r in wider] == ["undecided"] * 3
    assert wider[0]["why"] == "p 0.017, corrected for 3 rows 0.051" and "why" not in wider[2]


def test_correcting_needs_only_what_a_record_holds_and_twice_is_once():
    rows = corrected([row(0.01), row(0.03), row(0.04)])
    assert corrected(rows) == rows


def test_a_row_without_randomness_is_not_corrected():
    exact = judged("exact order", between(0.9, 0.9), 20)
    assert corrected([{**between(0.9, 0.9), **exact}, row(0.04)])[1]["p_holm"] == 0.04


def test_too_few_samples_decide_nothing():
    assert judged("mae", between(0.1, 0.2), FEWEST)["verdict"] == "holds"
    few = judged("mae", between(0.1, 0.2), FEWEST - 1)
    assert few["verdict"] == "undecided" and few["why"] == "5 behind the interval, expected at least 6"
    assert judged("mae", {"score": 0.1}, 20)["why"] == "no interval"


def test_unequal_bytes_decide_nothing_whatever_the_interval():
    row = judged("gain", between(5.0, 9.0, differing=20), 20, blocked="bytes differ by 3.1 %")
    assert row["verdict"] == "undecided" and row["why"] == "bytes differ by 3.1 %"


def test_an_order_that_does_not_agree_with_itself_is_compared_with_none():
    sure = {**between(0.9, 1.1), "across": 0.5, "within": WITHIN}
    assert judged_order(sure, 20)["verdict"] == "holds"
    noisy = judged_order({**sure, "within": WITHIN - 0.01}, 20)
    assert noisy["verdict"] == "undecided" and "correlate 0.29, below 0.3" in noisy["why"]
    assert judged_order({}, 20)["why"] == "a run gives all heads one score"
    assert judged_order({**sure, "low": 0.1, "high": 0.79}, 20)["verdict"] == "does not hold"


def test_a_bar_is_reached_where_nearly_every_order_passes_it():
    assert judged_reached(10, 20, 100)["verdict"] == "holds"
    assert judged_reached(10, None, 100)["verdict"] == "undecided"
    assert judged_reached(None, None, 100)["verdict"] == "does not hold"


def test_every_rule_has_its_sentence_in_the_record():
    recorded = rules_as_json()
    assert recorded.keys() > RULES.keys() and all(rule["sentence"] for rule in recorded.values())
