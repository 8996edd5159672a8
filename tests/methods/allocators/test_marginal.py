"""The solver equals every allocation enumerated where curves are concave, and is bounded by the hulls elsewhere."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cokv.methods.allocators.lukv import LUKV
from cokv.methods.allocators.marginal import greedy, isotonic_decreasing, keep_ratios, retained
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import CokvError, HeadScores

gains = st.floats(0, 8, width=16)
heads = st.lists(st.integers(1, 5).flatmap(lambda n: arrays(np.float64, n, elements=gains)), min_size=1, max_size=4)


def best_of_all(increments, total):
    """The most that any split of `total` slots retains."""
    splits = itertools.product(*(range(len(head) + 1) for head in increments))
    return max(kept_by(increments, split) for split in splits if sum(split) == total)


def kept_by(increments, split):
    """What a split retains, one slot after another."""
    worth = 0.0
    for head, count in zip(increments, split, strict=True):
        for place in range(count):
            worth += float(head[place])
    return worth


@given(heads, st.randoms(use_true_random=False))
def test_what_a_split_retains_is_each_heads_first_increments(increments, random):
    split = [random.randint(0, len(head)) for head in increments]
    assert retained(increments, np.array(split)) == pytest.approx(kept_by(increments, split), abs=1e-12)


def least_concave_majorant(increments):
    """Its values at 0..n: at each place, the highest chord of the curve that passes there."""
    curve = np.concatenate([[0.0], np.cumsum(increments)])
    n = len(curve)
    hull = curve.copy()
    for place in range(n):
        for left in range(place + 1):
            for right in range(place, n):
                if left < right:
                    share = (place - left) / (right - left)
                    hull[place] = max(hull[place], curve[left] + share * (curve[right] - curve[left]))
    return hull


@given(st.integers(1, 12).flatmap(lambda n: arrays(np.float64, n, elements=gains)))
def test_slopes_are_those_of_the_least_concave_majorant(increments):
    slopes = isotonic_decreasing(increments)
    assert (np.diff(slopes) <= 0).all() and len(slopes) == len(increments)
    np.testing.assert_allclose(np.cumsum(slopes), least_concave_majorant(increments)[1:], atol=1e-9)


@given(st.integers(1, 12).flatmap(lambda n: arrays(np.float64, n, elements=gains)))
def test_a_concave_curve_is_its_own_hull(increments):
    concave = np.sort(increments)[::-1]
    np.testing.assert_array_equal(isotonic_decreasing(concave), concave)


@settings(deadline=None)
@given(heads, st.floats(0, 1))
def test_greedy_equals_enumeration_where_curves_are_concave(increments, fill):
    concave = [np.sort(head)[::-1] for head in increments]
    total = round(fill * sum(map(len, concave)))
    slots = greedy([isotonic_decreasing(head) for head in concave], total)
    assert slots.sum() == total
    assert retained(concave, slots) == pytest.approx(best_of_all(concave, total), abs=1e-9)


@settings(deadline=None)
@given(heads, st.floats(0, 1))
def test_the_hulls_bound_what_any_split_retains(increments, fill):
    slopes = [isotonic_decreasing(head) for head in increments]
    total = round(fill * sum(map(len, increments)))
    slots = greedy(slopes, total)
    bound, best = retained(slopes, slots), best_of_all(increments, total)
    assert retained(increments, slots) <= best + 1e-9 <= bound + 2e-9
    corners = all(
        abs(head[:count].sum() - slope[:count].sum()) < 1e-12
        for head, slope, count in zip(increments, slopes, slots.tolist(), strict=True)
    )
    if corners:
        assert retained(increments, slots) == pytest.approx(best, abs=1e-9), "a split on the hulls' corners is optimal"


def test_a_late_gain_is_worth_the_way_to_it():
    """One head gains 9 with its third token only; greedy by bare increments would never get there."""
    increments = [np.array([0.0, 0.0, 9.0]), np.array([2.0, 2.0, 2.0])]
    assert isotonic_decreasing(increments[0]).tolist() == [3.0, 3.0, 3.0]
    slots = greedy([isotonic_decreasing(head) for head in increments], 3)
    assert slots.tolist() == [3, 0] and retained(increments, slots) == 9 == best_of_all(increments, 3)


def test_equal_slopes_go_to_the_lower_head_and_no_more_than_all_is_given():
    assert greedy([np.ones(3), np.ones(3)], 4).tolist() == [3, 1]
    assert greedy([np.ones(3), np.ones(2)], 99).tolist() == [3, 2]
    assert greedy([np.ones(3)], 0).tolist() == [0]


def dealt(slopes, total):
    """Slots one by one to the head whose next one is worth most, the lower head where two are worth the same."""
    counts = [0] * len(slopes)
    for _ in range(total):
        left = [head for head in range(len(slopes)) if counts[head] < len(slopes[head])]
        counts[max(left, key=lambda head: (slopes[head][counts[head]], -head))] += 1
    return counts


@given(heads, st.integers(0, 20))
def test_greedy_deals_one_slot_after_another(increments, total):
    falls = [np.sort(head)[::-1] for head in increments]
    assert greedy(falls, total).tolist() == dealt(falls, min(total, sum(map(len, falls))))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 3), st.integers(1, 24))
def test_ratios_are_what_is_dealt_along_the_hulls_at_each_percent(seed, num_layers, num_kv_heads, seq_len):
    importance = np.random.default_rng(seed).exponential(size=(num_layers, num_kv_heads, seq_len))
    ratios = keep_ratios(importance)
    assert ratios.shape == (99, num_layers, num_kv_heads)
    hulls = [least_concave_majorant(head) for head in importance.reshape(-1, seq_len)]
    slopes = [np.round(np.diff(hull), 9) for hull in hulls]  # one chord's slopes are equal, whatever the rounding
    for level in (0, 9, 36, 49, 98):
        counts = dealt(slopes, round(importance.size * (level + 1) / 100))
        np.testing.assert_allclose(ratios[level].reshape(-1) * seq_len, counts, atol=1e-9)
    RatioCurves(ratios)  # shares that rise with the cache, as the reader of published curves wants them


def blank(num_layers, num_kv_heads, seq_len):
    return [torch.zeros(num_kv_heads, seq_len) for _ in range(num_layers)]


@settings(deadline=None)
@given(
    st.integers(0, 99), st.integers(1, 4), st.integers(1, 4), st.integers(1, 200), st.integers(0, 8), st.floats(0, 1.1)
)
def test_lukv_spends_the_total_by_its_curves(seed, num_layers, num_kv_heads, seq_len, window, fill):
    window, count = min(window, seq_len), num_layers * num_kv_heads
    importance = np.random.default_rng(seed).exponential(size=(num_layers, num_kv_heads, 30))
    curves = RatioCurves(keep_ratios(importance))
    total = count * window + round(fill * count * (seq_len - window))
    budgets = LUKV().budgets(blank(num_layers, num_kv_heads, seq_len), total, seq_len, window, curves)
    assert budgets.total == min(total, count * seq_len)
    assert budgets.values.min() >= window and budgets.values.max() <= seq_len


def looked_up(curves, ratio, seq_len):
    """Slots of each head, real-valued: line r of 100 is `curves[r - 1]`, nothing at 0, everything at 100."""
    below = int(100 * ratio)
    slots = []
    for head in range(curves[0].size):
        lines = [0.0, *(float(line.reshape(-1)[head]) for line in curves), 1.0, 1.0]
        up = 100 * ratio - below
        slots.append(seq_len * ((1 - up) * lines[below] + up * lines[below + 1]))
    return slots


def whole_slots(raw, total, seq_len, window):
    """The window to all; what is beyond it in proportion, none above the prompt; the rest by largest remainder, where
    two are equal to the head that was to have more.
    """
    room = seq_len - window
    claims, shares = [max(slots - window, 0.0) for slots in raw], [0.0] * len(raw)
    full = set()
    while True:
        left = total - len(raw) * window - len(full) * room
        whole = sum(claim for head, claim in enumerate(claims) if head not in full)
        for head, claim in enumerate(claims):
            shares[head] = room if head in full else claim * left / whole
        more = {head for head, share in enumerate(shares) if share >= room} - full
        if not more:
            break
        full |= more
    slots = [int(share + 1e-9) for share in shares]
    missing = total - len(raw) * window - sum(slots)
    for head in sorted(range(len(raw)), key=lambda head: (round(slots[head] - shares[head], 9), -raw[head]))[:missing]:
        slots[head] += 1
    return [window + count for count in slots]


@pytest.mark.parametrize("window", [0, 8])
@pytest.mark.parametrize("kv_budget", [9, 41, 100, 101, 103, 200, 257, 350, 396, 398])
def test_lukv_looks_its_shares_up(kv_budget, window):
    """2 to 99.5 percent of 400 tokens: on a line, between two of them, beyond the last."""
    importance = np.random.default_rng(3).exponential(size=(2, 3, 100)) * np.arange(1.0, 7.0).reshape(2, 3, 1)
    curves = RatioCurves(keep_ratios(importance))
    budgets = LUKV().budgets(blank(2, 3, 400), 6 * kv_budget, 400, window, curves)
    raw = looked_up(curves.values, kv_budget / 400, 400)
    assert budgets.values.reshape(-1).tolist() == whole_slots(raw, 6 * kv_budget, 400, window)
    if window == 0:
        assert np.abs(budgets.values.reshape(-1) - raw).max() < 1, "a mean of shares is the global one"
    assert np.ptp(budgets.values) > 1, "the curves tell heads apart"


def test_lukv_between_two_lines_by_hand():
    """Two heads that keep 10 and 30 percent at 20, 20 and 40 at 30: at 25 percent of 40 tokens 6 and 14 slots."""
    low, high = np.linspace(0, 0.1, 21)[1:], np.linspace(0, 0.3, 21)[1:]
    first = np.concatenate([low, np.linspace(0.1, 0.2, 11)[1:], np.linspace(0.2, 1, 71)[1:-1]])
    second = np.concatenate([high, np.linspace(0.3, 0.4, 11)[1:], np.linspace(0.4, 1, 71)[1:-1]])
    curves = RatioCurves(np.stack([first, second], axis=1)[:, None])
    allocated = LUKV().budgets(blank(1, 2, 40), 20, 40, 0, curves)
    assert allocated.values.tolist() == [[6, 14]]


def test_lukv_without_curves_of_this_model_says_so():
    scores = HeadScores(np.ones((2, 2)))
    for wrong in (None, scores, np.ones((99, 2, 2))):
        with pytest.raises(CokvError, match="curves of keep ratios and got"):
            LUKV().budgets(blank(2, 2, 50), 40, 50, 2, wrong)
    with pytest.raises(CokvError, match="curves of 1 x 2 heads, the model has 2 x 2"):
        LUKV().budgets(blank(2, 2, 50), 40, 50, 2, RatioCurves(np.full((99, 1, 2), 0.5)))
