"""CAKE's layer preferences equal the formula in loops, and keep the budget contract."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.methods.allocators.cake import CakeAllocator
from cokv.types import CokvError


def blank(num_layers, num_kv_heads, seq_len):
    return [torch.zeros(num_kv_heads, seq_len) for _ in range(num_layers)]


@pytest.mark.parametrize(("tau1", "tau2"), [(1.0, 1.0), (1.6, 0.4), (0.5, 2.0)])
def test_layers_share_by_entropy_and_variance(tau1, tau2):
    measured = np.random.default_rng(0).uniform(0.1, 3, (4, 2, 2))
    budgets = CakeAllocator(tau1, tau2).budgets(blank(4, 2, 4000), 64 * 8, 4000, 8, measured)
    preferences = []
    for layer in measured:
        entropy, variance = layer[0][0] + layer[1][0], layer[0][1] + layer[1][1]
        preferences.append(entropy ** (1 / tau1) * variance ** (1 / tau2))
    for layer, preference in enumerate(preferences):
        share = 8 + preference / sum(preferences) * (64 - 8) * 4
        assert np.abs(budgets.values[layer] - share).max() < 1
    assert budgets.total == 64 * 8


@settings(deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(0, 8),
    st.floats(0, 1.2),
    st.integers(0, 99),
    st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)
def test_budgets_sum_to_the_total_within_floor_and_cap(num_layers, num_kv_heads, seq_len, window, fill, seed, scale):
    window, heads = min(window, seq_len), num_layers * num_kv_heads
    total = heads * window + round(fill * heads * (seq_len - window))
    measured = scale * np.random.default_rng(seed).uniform(0, 1, (num_layers, num_kv_heads, 2))
    budgets = CakeAllocator().budgets(blank(num_layers, num_kv_heads, seq_len), total, seq_len, window, measured)
    assert budgets.total == min(total, heads * seq_len)
    assert budgets.values.min() >= window and budgets.values.max() <= seq_len
    assert np.ptp(budgets.values, axis=1).max() <= 1, "heads of a layer get the same, but for what rounding leaves"


def test_a_layer_that_never_shifts_keeps_its_window_and_layers_alike_share_alike():
    measured = np.array([[[1.0, 0.0]], [[2.0, 3.0]]])
    assert CakeAllocator().budgets(blank(2, 1, 99), 60, 99, 8, measured).values.tolist() == [[8], [52]]
    assert CakeAllocator().budgets(blank(2, 1, 99), 60, 99, 8, np.zeros((2, 1, 2))).values.tolist() == [[30], [30]]


@pytest.mark.parametrize(("field", "value"), [("tau1", 0), ("tau2", -1.0), ("tau1", True)])
def test_a_bad_field_is_named(field, value):
    with pytest.raises(CokvError, match=field):
        CakeAllocator(**{field: value})
