"""Laws of the p-values: exact, symmetric, corrected over a table; and questions counted once whatever their seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reports import aggregate
from reports.permutation import sign_flip_p
from reports.significance import holm

Make = Callable[..., dict[str, Any]]
GAPS = st.lists(st.integers(-4, 4).map(lambda value: 25.0 * value), min_size=1, max_size=8)


def enumerated(gaps: list[np.ndarray]) -> float:
    """All signs, one after the other."""
    weighted = np.concatenate([gap / len(gap) for gap in gaps])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(weighted))))
    means = np.abs(signs @ np.abs(weighted))
    return float((means >= abs(weighted.sum()) - 1e-9).mean())


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.integers(-4, 4).map(lambda value: 25.0 * value), min_size=1, max_size=4), max_size=3, min_size=1
    )
)
def test_the_p_value_is_the_share_of_all_sign_flips(tasks: list[list[float]]) -> None:
    gaps = [np.array(task) for task in tasks]
    assert sign_flip_p(gaps) == pytest.approx(enumerated(gaps))


def test_of_pairs_won_or_lost_it_is_the_sign_test() -> None:
    gaps = np.array([100.0] * 9 + [-100.0] * 2 + [0.0] * 19)
    assert sign_flip_p([gaps]) == pytest.approx(stats.binomtest(9, 11).pvalue)


def test_sizes_that_do_not_fit_the_grid_are_rounded_to_it_and_hardly_move_p() -> None:
    gaps = np.random.default_rng(0).normal(3, 10, 12)
    assert sign_flip_p([gaps]) == pytest.approx(enumerated([gaps]), rel=0.02)
    many = np.random.default_rng(1).normal(2, 10, 400)
    assert sign_flip_p([many]) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, rel=0.3)


@given(GAPS)
def test_turning_all_round_changes_nothing(gaps: list[float]) -> None:
    values = np.array(gaps)
    assert sign_flip_p([values]) == sign_flip_p([-values]) <= 1
    assert sign_flip_p([values]) >= 2.0 ** (1 - max(1, np.count_nonzero(values)))


def test_holm_is_that_of_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def table(record: Make, methods: int) -> dict[str, Any]:
    """Every method is right on the 8 of 30 samples that the baseline gets wrong."""
    records = [record("snapkv", score=100.0 * (i >= 8), sample=i) for i in range(30)]
    names = [f"method{number}" for number in range(methods)]
    return aggregate([*records, *(record(name, score=100.0, sample=i) for name in names for i in range(30))])


def test_a_table_of_more_methods_needs_a_smaller_p(record: Make) -> None:
    few, many = (table(record, methods)["differences"] for methods in (1, 20))
    assert few[0]["p"] == many[0]["p"] == pytest.approx(2**-7, rel=1e-3)
    assert many[0]["p_holm"] == pytest.approx(min(1.0, 20 * few[0]["p_holm"]), rel=1e-3)
    assert few[0]["significant"] and not many[0]["significant"]
    assert few[0]["verdict"] == "better" and many[0]["verdict"] == "no difference shown"


def test_every_verdict_follows_significant(records: list[dict[str, Any]]) -> None:
    metrics = aggregate(records)
    rows = [r for part in ("differences", "differences_all_tasks") for r in metrics[part] if "p" in r]
    assert {r["significant"] for r in rows} == {True, False}
    for row in rows:
        assert row["p"] <= row["p_holm"] and row["significant"] == (row["verdict"] != "no difference shown")
        if row["significant"]:
            assert row["p_holm"] <= 0.05 and row["low"] * row["high"] > 0


def test_a_family_says_whether_its_numbers_of_samples_can_show_anything(records: list[dict[str, Any]]) -> None:
    families = {family["rows"]: family for family in aggregate(records)["families"]}
    assert families["differences"]["least_p_holm"] > 0.05 > families["differences_all_tasks"]["least_p_holm"]
    assert families["differences"]["size"] == len([r for r in aggregate(records)["differences"] if "p" in r])


def under_a_second_seed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*records, *({**record, "seed": record["seed"] + 1} for record in records)]


def test_asking_every_question_again_under_another_seed_changes_no_number(records: list[dict[str, Any]]) -> None:
    once, twice = aggregate(records), aggregate(under_a_second_seed(records))
    assert {row.pop("seeds_per_question") for row in twice["cells"]} == {2.0}
    for part in ("cells", "averages", "differences", "differences_all_tasks", "memory", "families"):
        assert once[part] == twice[part], part


def test_questions_that_only_a_seed_asks_are_samples_of_their_own(record: Make) -> None:
    row = aggregate([record(score=50.0 * s, seed=s, sample=s, sample_id=f"own/{s}") for s in range(3)])["cells"][0]
    assert row["n"] == 3 and "seeds_per_question" not in row


def test_a_question_is_the_mean_over_the_seeds_that_have_a_score(record: Make) -> None:
    rows = [record(score=score, seed=seed, sample_id="q") for seed, score in enumerate((100.0, 0.0, None))]
    cell = aggregate([*rows, record(score=80.0, sample_id="r")])["cells"][0]
    assert (cell["n"], cell["feasible"], cell["mean"]) == (2, 2, 65.0)
    assert cell["seeds_per_question"] == 2.0 and list(cell["infeasible"].values()) == [1]


def test_pairs_are_of_one_seed_and_averaged_over_seeds(record: Make) -> None:
    base = [record("snapkv", score=10.0 * seed, seed=seed, sample_id="q") for seed in range(3)]
    other = [record("cokv", score=10.0 * seed + 5 * seed, seed=seed, sample_id="q") for seed in (1, 2)]
    row = aggregate([*base, *other])["differences"][0]
    assert (row["n"], row["mean"]) == (1, 7.5)
