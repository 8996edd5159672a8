"""Verdicts at their edges: on which side of its bar an interval lies, and where nothing can be decided."""

import pytest

from suite.checks.rules import (
    FEWEST,
    FEWEST_ALIKE,
    MIN_DIFFERING,
    RULES,
    WITHIN,
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
def test_a_paired_difference_needs_an_interval_beside_0_and_pairs_that_differ(rule):
    def verdict(low, high, differing=MIN_DIFFERING, n=20):
        return judged(rule, between(low, high, differing=differing), n)["verdict"]

    assert verdict(TINY, 5.0) == "holds" and verdict(-5.0, 0.0) == "does not hold"
    assert verdict(0.0, 5.0) == "undecided" and verdict(-5.0, TINY) == "undecided"
    assert verdict(1.0, 5.0, MIN_DIFFERING - 1) == "undecided" and verdict(0.0, 0.0, 0) == "undecided"
    few = judged(rule, between(1.0, 5.0, differing=5), 20)
    assert few["why"] == "5 of 20 samples differ, expected at least 6"


def test_too_few_samples_decide_nothing():
    assert judged("mae", between(0.1, 0.2), FEWEST)["verdict"] == "holds"
    few = judged("mae", between(0.1, 0.2), FEWEST - 1)
    assert few["verdict"] == "undecided" and few["why"] == "5 behind the interval, expected at least 6"
    assert judged("mae", {"score": 0.1}, 20)["why"] == "no interval"


def test_samples_all_alike_need_more_of_them():
    """The bootstrap of equal samples has no width, whatever their number."""
    for rule, value in (("top tenth", 0.0), ("bottom third", 100.0)):
        assert judged(rule, between(value, value), FEWEST_ALIKE - 1)["verdict"] == "undecided"
        assert judged(rule, between(value, value), FEWEST_ALIKE)["verdict"] == "holds"


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
