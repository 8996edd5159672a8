"""Each allocator equals its paper's formula written out in loops, and keeps the budget contract."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.methods.allocators.ada import Ada
from cokv.methods.allocators.cokv import CoKV
from cokv.methods.allocators.pyramid import Pyramid
from cokv.methods.allocators.uniform import Uniform
from cokv.types import CokvError, HeadScores


def layers(num_layers, num_kv_heads, seq_len, window, seed=0, ties=False):
    generator = torch.Generator().manual_seed(seed)
    scored_layers = []
    for _ in range(num_layers):
        scores = torch.rand(num_kv_heads, seq_len, generator=generator)
        if ties:
            scores = (scores * 4).floor()
        scores[:, seq_len - window :] = torch.inf
        scored_layers.append(scores)
    return scored_layers


def profile(num_layers, num_kv_heads, seed=0):
    return HeadScores(np.random.default_rng(seed).normal(size=(num_layers, num_kv_heads)))


ALL = [
    Uniform(),
    Pyramid(),
    Pyramid(beta=3),
    Ada(),
    Ada(floor_alpha=0.0),
    CoKV(),
    CoKV(alpha=1, normalization="min_max"),
]
RELEASED = [Pyramid(exact=False), Ada(exact=False), CoKV(exact=False)]
worlds = st.tuples(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 60), st.integers(0, 8), st.integers(0, 99), st.booleans()
)


@settings(deadline=None)
@given(worlds, st.floats(0, 1.2))
@pytest.mark.parametrize("allocator", ALL, ids=repr)
def test_budgets_sum_to_the_total_within_floor_and_cap(allocator, world, fill):
    num_layers, num_kv_heads, seq_len, window, seed, ties = world
    window = min(window, seq_len)
    heads = num_layers * num_kv_heads
    total = heads * window + round(fill * heads * (seq_len - window))
    budgets = allocator.budgets(
        layers(num_layers, num_kv_heads, seq_len, window, seed, ties),
        total,
        seq_len,
        window,
        profile(num_layers, num_kv_heads, seed),
    )
    assert budgets.values.shape == (num_layers, num_kv_heads)
    assert budgets.total == min(total, heads * seq_len)
    assert budgets.values.min() >= window and budgets.values.max() <= seq_len
    again = allocator.budgets(
        layers(num_layers, num_kv_heads, seq_len, window, seed, ties),
        total,
        seq_len,
        window,
        profile(num_layers, num_kv_heads, seed),
    )
    assert again == budgets, "the same input gave other budgets"


@settings(deadline=None)
@given(worlds, st.floats(0.1, 0.9))
@pytest.mark.parametrize("allocator", RELEASED, ids=repr)
def test_released_rounding_stays_inside_the_prompt_and_above_the_window(allocator, world, fill):
    num_layers, num_kv_heads, seq_len, window, seed, ties = world
    window, num_layers = min(window, seq_len), max(num_layers, 2)
    heads = num_layers * num_kv_heads
    total = heads * (window + round(fill * (seq_len - window)))
    scored_layers = layers(num_layers, num_kv_heads, seq_len, window, seed, ties)
    budgets = allocator.budgets(scored_layers, total, seq_len, window, profile(num_layers, num_kv_heads, seed))
    assert budgets.values.min() >= window and budgets.values.max() <= seq_len


def test_uniform_gives_the_remainder_to_the_first_heads():
    scored_layers = layers(2, 3, 50, 4)
    assert Uniform().budgets(scored_layers, 62, 50, 4).values.tolist() == [[11, 11, 10], [10, 10, 10]]


# Pyramid


@pytest.mark.parametrize(
    ("num_layers", "kv_budget", "seq_len"), [(4, 32, 200), (32, 128, 5000), (4, 60, 100), (2, 9, 50)]
)
def test_the_pyramid_is_a_straight_line_from_max_to_min(num_layers, kv_budget, seq_len):
    window, num_kv_heads = 8, 2
    budgets = Pyramid().budgets(
        layers(num_layers, num_kv_heads, seq_len, window), kv_budget * num_layers * num_kv_heads, seq_len, window
    )
    mean = kv_budget - window
    low = mean // 20
    high = 2 * mean - low
    if high > seq_len - window:
        high = seq_len - window
        low = 2 * mean - high
    if seq_len < 2 * mean:
        high = low = mean
    for layer in range(num_layers):
        line = window + high - layer * (high - low) / (num_layers - 1)
        assert np.abs(budgets.values[layer] - line).max() < 1
    rows = budgets.values.sum(axis=1)
    assert (np.diff(rows) <= 0).all() and budgets.total == kv_budget * num_layers * num_kv_heads


def test_a_pyramid_of_one_layer_is_uniform():
    assert Pyramid().budgets(layers(1, 3, 50, 8), 60, 50, 8).values.tolist() == [[20, 20, 20]]
    with pytest.raises(CokvError, match="num_layers - 1"):
        Pyramid(exact=False).budgets(layers(1, 3, 50, 8), 60, 50, 8)


def test_the_released_pyramid_overspends_as_the_paper_code_does():
    num_layers, num_kv_heads, window, seq_len, kv_budget = 32, 8, 8, 5000, 128
    scored_layers = layers(num_layers, num_kv_heads, seq_len, window)
    total = kv_budget * num_layers * num_kv_heads
    budgets = Pyramid(exact=False).budgets(scored_layers, total, seq_len, window)
    low = 120 // 20
    high = 240 - low
    expected = [high - layer * ((high - low) // 31) + window for layer in range(num_layers)]
    assert budgets.values[:, 0].tolist() == expected
    assert 1.03 < budgets.total / total < 1.15, budgets.total / total
    short = Pyramid(exact=False).budgets(layers(4, 2, 230, 8), 128 * 8, 230, 8)
    assert (short.values == 128).all(), "below 2B tokens the released code is uniform"


# Ada


def ada_written_out(scores, mean, alpha, window):
    """Real-valued shares of one layer from a list of (score, head, position), best first."""
    num_kv_heads, seq_len = scores.shape
    free = [(-scores[h, j].item(), h, j) for h in range(num_kv_heads) for j in range(seq_len - window)]
    best = sorted(free)[: round(mean * num_kv_heads)]
    counts = [sum(1 for _, head, _ in best if head == h) for h in range(num_kv_heads)]
    assert sum(counts) == round(mean * num_kv_heads)
    return np.array([(1 - alpha) * count + alpha * mean + window for count in counts]), np.array(counts)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    ("num_kv_heads", "seq_len", "window", "kv_budget"), [(4, 61, 8, 20), (1, 33, 4, 12), (3, 40, 5, 39)]
)
def test_ada_counts_the_best_tokens_of_each_layer(num_kv_heads, seq_len, window, kv_budget, alpha, ties):
    scored_layers = layers(3, num_kv_heads, seq_len, window, seed=5, ties=ties)
    budgets = Ada(floor_alpha=alpha).budgets(scored_layers, kv_budget * 3 * num_kv_heads, seq_len, window)
    released = Ada(floor_alpha=alpha, exact=False).budgets(scored_layers, kv_budget * 3 * num_kv_heads, seq_len, window)
    mean = kv_budget - window
    for layer, scores in enumerate(scored_layers):
        shares, counts = ada_written_out(scores, mean, alpha, window)
        assert np.abs(budgets.values[layer] - shares).max() < 1
        assert budgets.values[layer].sum() == kv_budget * num_kv_heads, "each layer spends the same total"
        whole = [round((1 - alpha) * count + int(alpha * mean)) + window for count in counts]
        assert released.values[layer].tolist() == whole


def test_ada_follows_a_head_that_holds_all_the_mass():
    scored_layers = layers(1, 4, 100, 8)
    scored_layers[0][2, :92] += 10
    assert Ada(floor_alpha=0.0).budgets(scored_layers, 4 * 20, 100, 8).values.tolist() == [[8, 8, 56, 8]]
    assert Ada(floor_alpha=1.0).budgets(scored_layers, 4 * 20, 100, 8).values.tolist() == [[20, 20, 20, 20]]


# CoKV


def cokv_written_out(head_scores, extra, alpha):
    flat = sorted(head_scores.reshape(-1).tolist())
    edge = flat[alpha - 1]
    z = [[max(c - edge, 0.0) for c in row] for row in head_scores.tolist()]
    whole = math.fsum(value for row in z for value in row)
    return np.array([[extra * value / whole for value in row] for row in z])


@pytest.mark.parametrize("normalization", ["shift", "min_max"])
@pytest.mark.parametrize("alpha", [1, 2, 5, 15])
def test_cokv_shares_what_is_beyond_the_window_by_score(alpha, normalization):
    num_layers, num_kv_heads, seq_len, window, kv_budget = 4, 4, 4000, 8, 64
    scored_layers, scores = layers(num_layers, num_kv_heads, seq_len, window), profile(4, 4, seed=2)
    allocator = CoKV(alpha=alpha, normalization=normalization)
    budgets = allocator.budgets(scored_layers, kv_budget * 16, seq_len, window, scores)
    shares = cokv_written_out(scores.values, (kv_budget - window) * 16, alpha)
    assert np.abs(budgets.values - window - shares).max() < 1
    lowest = np.argsort(scores.values, axis=None)[:alpha]
    assert (budgets.values.reshape(-1)[lowest] == window).all(), "the alpha lowest keep their window and nothing else"
    released = CoKV(alpha=alpha, normalization=normalization, exact=False)
    leaked = released.budgets(scored_layers, kv_budget * 16, seq_len, window, scores)
    np.testing.assert_allclose(leaked.values, np.floor(shares + 1e-9) + window)
    assert leaked.total < budgets.total or alpha == 15, "flooring leaks unless one head takes all"


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_both_normalizations_give_the_same_budgets(seed, alpha):
    """The paper's divisor is the same for every head, so it cancels."""
    scored_layers, scores = layers(3, 4, 90, 8), profile(3, 4, seed)
    shift, min_max = (
        CoKV(alpha=alpha, normalization=n).budgets(scored_layers, 40 * 12, 90, 8, scores) for n in ("shift", "min_max")
    )
    assert np.abs(shift.values - min_max.values).max() <= 1 and shift.total == min_max.total


@given(st.floats(-5, 5), st.floats(0.01, 100), st.integers(0, 1000))
def test_cokv_sees_neither_the_zero_nor_the_unit_of_the_scores(offset, scale, seed):
    scored_layers, scores = layers(3, 4, 90, 8), profile(3, 4, seed)
    moved = HeadScores(scores.values * scale + offset)
    first, second = (CoKV().budgets(scored_layers, 40 * 12, 90, 8, given_scores) for given_scores in (scores, moved))
    assert np.abs(first.values - second.values).max() <= 1


def test_scores_that_tell_no_heads_apart_give_equal_budgets():
    scored_layers = layers(2, 3, 90, 8)
    for values in (np.full((2, 3), 0.25), np.zeros((2, 3))):
        assert (CoKV().budgets(scored_layers, 6 * 30, 90, 8, HeadScores(values)).values == 30).all()
        with pytest.raises(CokvError, match="divides by zero"):
            CoKV(exact=False).budgets(scored_layers, 6 * 30, 90, 8, HeadScores(values))


def test_what_the_prompt_cannot_hold_goes_to_the_other_scored_heads_first():
    scored_layers = layers(1, 4, 50, 8)
    scores = HeadScores(np.array([[0.0, 1.0, 2.0, 30.0]]))
    assert CoKV(alpha=1).budgets(scored_layers, 4 * 30, 50, 8, scores).values.tolist() == [[8, 23, 39, 50]]


def test_alpha_scales_with_the_model_unless_it_is_given():
    rng = np.random.default_rng(0)
    for heads, alpha in ((16, 1), (256, 16), (8, 1), (32, 2)):
        assert (CoKV().claims(rng.normal(size=(1, heads))) == 0).sum() == alpha
    assert (CoKV(alpha=20).claims(rng.normal(size=(32, 8))) == 0).sum() == 20
    with pytest.raises(CokvError, match="alpha is 20, but the model has 16"):
        CoKV(alpha=20).claims(rng.normal(size=(4, 4)))


def test_cokv_needs_scores_of_this_model():
    scored_layers = layers(2, 3, 90, 8)
    with pytest.raises(CokvError, match="profile="):
        CoKV().budgets(scored_layers, 200, 90, 8, None)
    with pytest.raises(CokvError, match=r"\[3, 2\]"):
        CoKV().budgets(scored_layers, 200, 90, 8, profile(3, 2))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Pyramid, "beta", 0),
        (Pyramid, "beta", 2.5),
        (Ada, "floor_alpha", 1.1),
        (Ada, "floor_alpha", "0.2"),
        (CoKV, "alpha", 0),
        (CoKV, "alpha", 1.0),
        (CoKV, "alpha_share", 1.0),
        (CoKV, "normalization", "softmax"),
    ],
)
def test_a_bad_field_is_named(kind, field, value):
    with pytest.raises(CokvError, match=field):
        kind(**{field: value})
