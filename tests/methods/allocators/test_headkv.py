"""HeadKV's allocator: the paper's formula, exact totals, and the released budgets on the published scores."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cokv.methods.allocators.headkv import HeadKV
from cokv.profiles.headkv_file import read_headkv
from cokv.types import CokvError, HeadScores

DATA = os.environ.get("COKV_TEST_DATA")
LLAMA = "headkv_scores/Meta-Llama-3-8B-Instruct_retrieval_reasoning_heads.json"
BETAS = (1.005, 1.01, 1.1, 1.2, 1.5, 2, 5, 10)


def blank(num_layers: int, num_kv_heads: int) -> list[torch.Tensor]:
    return [torch.zeros(num_kv_heads, 1)] * num_layers


def budgets(allocator: HeadKV, values: np.ndarray, kv_budget: int, seq_len: int, reserved: int) -> np.ndarray:
    layers, heads = values.shape
    total = kv_budget * values.size
    return allocator.budgets(blank(layers, heads), total, seq_len, reserved, HeadScores(values)).values


@given(
    values=hnp.arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(0, 1e6)),
    beta=st.floats(1, 20),
    reserved=st.integers(0, 16),
    extra=st.integers(1, 100),
    seq_len=st.integers(200, 2000),
)
@settings(deadline=None)
def test_totals_are_exact_and_a_higher_score_never_gets_less(values, beta, reserved, extra, seq_len):
    assume(values.max() > 0)
    allocated = budgets(HeadKV(beta), values, reserved + extra, seq_len, reserved)
    assert allocated.sum() == (reserved + extra) * values.size
    assert allocated.min() >= reserved and allocated.max() <= seq_len
    order = np.argsort(values, axis=None, kind="stable")
    ranked, scores = allocated.ravel()[order], values.ravel()[order]
    assert (np.diff(ranked)[np.diff(scores) > 1e-6 * max(scores[-1], 1e-300)] >= -1).all()


def test_the_formula_of_the_paper():
    scores = np.array([[1.0, 3.0], [0.0, 4.0]])
    allocated = budgets(HeadKV(beta=2), scores, kv_budget=108, seq_len=10_000, reserved=8)
    # B = 100: 50 to each, and 200 by the shares 1/8, 3/8, 0, 4/8
    np.testing.assert_array_equal(allocated, [[8 + 50 + 25, 8 + 50 + 75], [8 + 50, 8 + 50 + 100]])


def test_beta_goes_from_all_by_score_to_evenly():
    scores = np.array([[1.0, 0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(budgets(HeadKV(1), scores, 20, 10_000, 4), [[20, 4, 4, 52]])
    np.testing.assert_array_equal(budgets(HeadKV(1e9), scores, 20, 10_000, 4), [[20, 20, 20, 20]])


def test_what_passes_the_prompt_goes_to_the_others_only_when_exact():
    scores = np.array([[98.0, 1.0, 1.0]])
    exact = budgets(HeadKV(1), scores, 50, 100, 10)
    assert exact.sum() == 150 and exact[0, 0] == 100
    released = budgets(HeadKV(1, exact=False), scores, 50, 100, 10)
    np.testing.assert_array_equal(released, [[100, 11, 11]])


def test_what_a_full_head_cannot_take_goes_to_the_others_by_their_scores():
    """Not evenly: a profile of few heads would else be uniform budgets under HeadKV's name."""
    scores = np.array([[80.0, 15.0, 5.0, 0.0]])
    allocated = budgets(HeadKV(2), scores, kv_budget=60, seq_len=100, reserved=10)
    # Each keeps 10 + 25; 100 by score, of which the first head has room for 65 and the others share 35 as 15 to 5.
    np.testing.assert_array_equal(allocated, [[100, 35 + 26, 35 + 9, 35]])
    two = budgets(HeadKV(1.25), np.array([[3.0, 1.0, 0.0, 0.0]]), kv_budget=60, seq_len=100, reserved=10)
    np.testing.assert_array_equal(two, [[100, 100, 20, 20]])
    three = budgets(HeadKV(1.25), np.array([[3.0, 1.0, 0.0, 0.0]]), kv_budget=70, seq_len=100, reserved=10)
    np.testing.assert_array_equal(three, [[100, 100, 40, 40]])


def test_scores_of_zero_are_refused_as_the_released_code_does():
    for allocator in (HeadKV(), HeadKV(exact=False)):
        with pytest.raises(CokvError, match="all head scores are 0"):
            budgets(allocator, np.zeros((2, 2)), 30, 100, 8)


def test_the_authors_default():
    assert HeadKV().beta == 1.5


def test_what_it_cannot_use_is_refused():
    with pytest.raises(CokvError, match="not Shapley values"):
        budgets(HeadKV(), np.array([[-0.1, 1.0]]), 30, 100, 8)
    with pytest.raises(CokvError, match="got none"):
        HeadKV().budgets(blank(1, 2), 60, 100, 8, None)
    with pytest.raises(CokvError, match="the model needs"):
        HeadKV().budgets(blank(1, 2), 60, 100, 8, HeadScores(np.ones((2, 2))))
    for beta in (0.9, 0, -1, float("nan"), float("inf"), True, "2"):
        with pytest.raises(CokvError, match="beta is"):
            HeadKV(beta)  # type: ignore[arg-type]


@pytest.mark.skipif(DATA is None, reason="COKV_TEST_DATA is not set: the published scores are not available")
@pytest.mark.parametrize("beta", BETAS)
def test_official_budgets_are_those_of_the_released_formula(beta):
    assert DATA is not None
    path = Path(DATA) / LLAMA
    means = np.array([np.mean(scores) for scores in json.loads(path.read_text()).values()])
    share = (means / means.sum()).reshape(32, 32)
    profile = read_headkv(path, (32, 8))
    for capacity, window in ((64, 8), (128, 8), (256, 32), (1024, 8)):
        mean = capacity - window
        per_query = share * (mean // beta) * 32 * 32 + (mean - mean // beta)
        theirs = np.floor(per_query.reshape(32, 8, 4).mean(axis=2)).astype(int) + window
        total = capacity * 256
        ours = HeadKV(beta, exact=False).budgets(blank(32, 8), total, 10**6, window, profile)
        np.testing.assert_array_equal(ours.values, theirs)
        exact = HeadKV(beta).budgets(blank(32, 8), total, 10**6, window, profile)
        assert exact.total == total
        real = share.reshape(32, 8, 4).mean(axis=2) * mean / beta * 1024 + mean - mean / beta + window
        assert np.abs(exact.values - real).max() < 1 + 1e-9
