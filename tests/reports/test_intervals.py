"""Laws of the intervals: what is seen is inside, more samples narrow, and samples all alike leave a width."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.intervals import average_interval, difference_interval, estimate, share_interval, share_p

PERCENT = st.lists(st.one_of(st.floats(0, 100), st.sampled_from([0.0, 100.0])), min_size=2, max_size=12)
TASKS = st.lists(PERCENT, min_size=1, max_size=5)


def arrays(tasks: list[list[float]]) -> list[np.ndarray]:
    return [np.array(task) for task in tasks]


@given(TASKS)
def test_the_mean_is_inside_and_the_ends_are_possible_scores(tasks: list[list[float]]) -> None:
    groups = arrays(tasks)
    mean = np.mean([group.mean() for group in groups])
    low, high = average_interval(groups)
    assert -1e-9 <= low <= mean + 1e-9 and mean - 1e-9 <= high <= 100 + 1e-9
    assert high - low > 0, "no finite number of samples is certainty"


@given(TASKS)
def test_turning_a_difference_round_turns_its_interval(tasks: list[list[float]]) -> None:
    gaps = [group - 50 for group in arrays(tasks)]
    low, high = difference_interval(gaps)
    other_low, other_high = difference_interval([-gap for gap in gaps])
    assert (low, high) == pytest.approx((-other_high, -other_low))


@given(PERCENT, st.randoms())
def test_the_order_of_samples_does_not_matter(task: list[float], random: object) -> None:
    shuffled = list(task)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert average_interval(arrays([task])) == pytest.approx(average_interval(arrays([shuffled])))


def test_one_group_of_right_and_wrong_is_student_s_t_of_two_more_samples() -> None:
    scores = np.array([100.0] * 5 + [0.0] * 2)
    seen = np.append(scores, [0.0, 100.0])
    half = stats.t.ppf(0.975, 8) * seen.std(ddof=1) / 3
    assert average_interval([scores]) == pytest.approx((seen.mean() - half, min(100, seen.mean() + half)))


def test_samples_all_alike_leave_a_width_that_shrinks_with_their_number() -> None:
    widths = [np.subtract(*average_interval([np.full(n, 100.0)])[::-1]) for n in (3, 6, 30, 300)]
    assert all(wide > 2 * narrow for wide, narrow in itertools.pairwise(widths[1:]))
    assert 40 < widths[1] < 50 and widths[3] < 2


def test_leading_axes_are_repetitions() -> None:
    rng = np.random.default_rng(0)
    groups = [100 * rng.random((4, 6)), 100 * rng.random((4, 9))]
    low, high = average_interval(groups)
    shares = share_interval(groups, [group[::-1] for group in groups])
    for place in range(4):
        one = [group[place] for group in groups]
        assert average_interval(one) == pytest.approx((low[place], high[place]))
        turned = share_interval(one, [group[::-1][place] for group in groups])
        assert turned == pytest.approx((shares[0][place], shares[1][place]))


def test_the_ends_of_a_share_are_where_its_p_is_the_rest_of_the_confidence() -> None:
    rng = np.random.default_rng(1)
    wholes = [100.0 * (rng.random(20) < 0.8) for _ in range(3)]
    parts = [whole * (rng.random(20) < 0.7) for whole in wholes]
    low, high = share_interval(parts, wholes)
    assert 0 < low < sum(p.mean() for p in parts) / sum(w.mean() for w in wholes) < high
    assert [share_p(parts, wholes, end) for end in (low, high)] == pytest.approx([0.05, 0.05], abs=1e-6)
    assert share_p(parts, wholes, 2.0) < 1e-6


def test_a_share_of_what_may_be_nothing_has_no_upper_end() -> None:
    assert share_interval([np.zeros(6)], [np.zeros(6)]) == (0, np.inf)
    low, high = share_interval([np.array([100.0, 0, 0, 0])], [np.array([100.0, 0, 0, 0])])
    assert low == 0 and high == np.inf


def test_a_higher_confidence_is_wider_and_one_sample_has_no_interval() -> None:
    groups = [np.array([0.0, 50.0, 60.0, 100.0] * 3)]
    assert average_interval(groups, 0.99)[0] < average_interval(groups)[0]
    assert estimate([np.array([40.0])]) == {"score": 40.0}
