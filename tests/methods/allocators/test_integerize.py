"""Laws of the one place that rounds."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cokv.methods.allocators.integerize import integerize, round_as_released
from cokv.types import CokvError


@st.composite
def problems(draw):
    """raw [L, H], total, cap, floor_each that can be met."""
    layers, heads = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    share = st.one_of(
        st.floats(0, 200), st.integers(0, 50).map(float), st.sampled_from([0.0, 1 / 3, 1e-9, 1e6, 5e-324, 1e308])
    )
    raw = np.array(draw(st.lists(share, min_size=layers * heads, max_size=layers * heads))).reshape(layers, heads)
    cap = draw(st.integers(1, 120))
    floor_each = draw(st.integers(0, cap))
    total = draw(st.integers(raw.size * floor_each, raw.size * cap + 50))
    return raw, total, cap, floor_each


@given(problems())
def test_the_sum_is_the_total_or_all_there_is(problem):
    raw, total, cap, floor_each = problem
    budgets = integerize(raw, total, cap, floor_each)
    assert budgets.total == min(total, raw.size * cap)
    assert budgets.values.dtype == np.int64 and budgets.values.shape == raw.shape


@given(problems())
def test_no_head_is_below_its_floor_or_above_the_cap(problem):
    raw, total, cap, floor_each = problem
    values = integerize(raw, total, cap, floor_each).values
    assert values.min() >= floor_each and values.max() <= cap


@given(problems())
def test_a_larger_share_never_gets_fewer_slots(problem):
    raw, total, cap, floor_each = problem
    values = integerize(raw, total, cap, floor_each).values.reshape(-1)
    flat = raw.reshape(-1)
    order = np.lexsort((values, flat))
    ranked, distinct = values[order], np.diff(flat[order]) > 0
    assert (np.diff(ranked)[distinct] >= 0).all(), (flat[order], ranked)


@given(problems())
def test_equal_shares_differ_by_one_slot_at_most_and_the_lower_index_leads(problem):
    raw, total, cap, floor_each = problem
    values = integerize(raw, total, cap, floor_each).values.reshape(-1)
    for share in np.unique(raw):
        same = values[raw.reshape(-1) == share]
        assert same.max() - same.min() <= 1 and (np.diff(same) <= 0).all(), same


@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_heads_does_not_matter(problem, random):
    raw, total, cap, floor_each = problem
    flat = raw.reshape(-1)
    assume(np.unique(flat).size == flat.size)
    order = list(range(flat.size))
    random.shuffle(order)
    values = integerize(raw, total, cap, floor_each).values.reshape(-1)
    shuffled = integerize(flat[order][None], total, cap, floor_each).values.reshape(-1)
    assert shuffled.tolist() == values[order].tolist()


@given(st.lists(st.integers(3, 40), min_size=1, max_size=12), st.integers(0, 3))
def test_whole_shares_that_fit_come_back_unchanged(slots, floor_each):
    raw = np.array(slots, dtype=float)[None]
    assert integerize(raw, sum(slots), 40, floor_each).values[0].tolist() == slots


@given(problems())
def test_shares_are_rounded_by_less_than_one_slot(problem):
    raw, total, cap, floor_each = problem
    assume(((raw <= floor_each) | (raw - floor_each > 1e-9)).all() and raw.max() < 1e9)  # for the bisection's sake
    exact = filled_by_bisection(raw.reshape(-1), min(total, raw.size * cap), cap, floor_each)
    values = integerize(raw, total, cap, floor_each).values.reshape(-1)
    assert np.abs(values - exact).max() < 1 + 1e-6


def filled_by_bisection(raw, total, cap, floor_each):
    """The real-valued shares by another road: the scale s at which clip(s * claim) sums to the total."""
    claims, amount, room = np.maximum(raw - floor_each, 0), total - raw.size * floor_each, cap - floor_each
    open_ = claims > 0
    if amount >= room * open_.sum():
        rest = (amount - room * open_.sum()) / max((~open_).sum(), 1)
        return floor_each + np.where(open_, room, rest)
    low, high = 0.0, room / claims[open_].min() + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(claims, middle, room).sum() < amount else (low, middle)
    return floor_each + scaled(claims, high, room)


def scaled(claims, scale, room):
    with np.errstate(over="ignore"):
        return np.minimum(claims * scale, room)


def test_what_the_cap_frees_goes_to_the_others_in_proportion():
    assert integerize(np.array([[100.0, 20, 10]]), 130, 40).values.tolist() == [[40, 40, 40]]
    assert integerize(np.array([[70.0, 20, 10]]), 100, 40).values.tolist() == [[40, 40, 20]]
    assert integerize(np.array([[66.0, 6, 6, 12]]), 90, 60).values.tolist() == [[60, 8, 7, 15]]


def test_a_head_without_a_claim_gets_its_floor_until_the_others_are_full():
    assert integerize(np.array([[50.0, 8, 8]]), 66, 64, 8).values.tolist() == [[50, 8, 8]]
    assert integerize(np.array([[90.0, 8, 8]]), 106, 64, 8).values.tolist() == [[64, 21, 21]]
    assert integerize(np.zeros((1, 3)), 11, 64, 2).values.tolist() == [[4, 4, 3]]


def test_claims_near_the_ends_of_float64_are_shares_like_any_other():
    for unit in (5e-324, 1e-320, 1.0, 1e307):
        assert integerize(np.array([[unit, 2 * unit, unit]]), 20, 100).values.tolist() == [[5, 10, 5]]
    assert integerize(np.array([[0.0, 1.0, 1e308]]), 2, 1).values.tolist() == [[0, 1, 1]]


def test_remainders_go_to_the_largest_first():
    assert integerize(np.array([[1.2, 2.7, 3.6, 2.5]]), 10, 99).values.tolist() == [[1, 3, 4, 2]]


def test_a_total_below_the_floors_is_an_error_with_numbers():
    with pytest.raises(CokvError, match=r"total of 15 KV slots for 2 heads is below the 8"):
        integerize(np.ones((1, 2)), 15, 100, 8)


def test_a_floor_above_the_prompt_is_the_prompt():
    assert integerize(np.ones((2, 2)), 100, 5, 8).values.tolist() == [[5, 5], [5, 5]]


def test_released_rounding_keeps_no_total():
    raw = np.array([[1.5, 2.5, 3.9, 80.0]])
    assert round_as_released(raw, 50, "floor").values.tolist() == [[1, 2, 3, 50]]
    assert round_as_released(raw, 50, "nearest").values.tolist() == [[2, 2, 4, 50]]
