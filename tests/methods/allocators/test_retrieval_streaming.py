"""Retrieval heads whole, the others sinks and window; exact totals, and never more than the total pays for."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.methods.allocators.retrieval_streaming import RetrievalStreaming
from cokv.profiles.duo_file import DuoPattern
from cokv.types import CokvError, HeadScores, Infeasible


def blank(num_layers, num_kv_heads, seq_len):
    return [torch.zeros(num_kv_heads, seq_len) for _ in range(num_layers)]


def gates(num_layers, num_kv_heads, seed=0, ties=False):
    values = np.random.default_rng(seed).uniform(size=(num_layers, num_kv_heads))
    return HeadScores(np.round(values) if ties else values)


def most_retrieval_heads(heads, total, seq_len, least):
    """Counted up one by one."""
    count = 0
    while count < heads and (count + 1) * seq_len + (heads - count - 1) * least <= total:
        count += 1
    return count


@settings(deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 80),
    st.integers(0, 4),
    st.integers(1, 9),
    st.floats(0, 1.1),
    st.integers(0, 99),
    st.booleans(),
)
def test_as_many_heads_as_fit_are_whole(num_layers, num_kv_heads, seq_len, sinks, local, fill, seed, ties):
    heads, least = num_layers * num_kv_heads, min(sinks + local, seq_len)
    total, scores = round(fill * heads * seq_len), gates(num_layers, num_kv_heads, seed, ties)
    allocator = RetrievalStreaming(local=local)
    scored_layers = blank(num_layers, num_kv_heads, seq_len)
    if total < (heads - 1) * least + seq_len:
        with pytest.raises(Infeasible, match=f"the total is {total}") as caught:
            allocator.budgets(scored_layers, total, seq_len, min(sinks, seq_len), scores)
        if seq_len > sinks + local:  # not one whole head fits: the budget that is named is the smallest that does
            enough = int(re.search(r"kv_budget to at least (\d+)", str(caught.value))[1])
            assert heads * enough >= (heads - 1) * least + seq_len > heads * (enough - 1)
        return
    facts = allocator.facts(total, seq_len, min(sinks, seq_len), scores)
    assert facts == {"whole_heads": most_retrieval_heads(heads, total, seq_len, least)}
    values = allocator.budgets(scored_layers, total, seq_len, min(sinks, seq_len), scores).values.reshape(-1)
    assert values.sum() == min(total, heads * seq_len)
    count = most_retrieval_heads(heads, total, seq_len, least)
    order = sorted(range(heads), key=lambda i: (-scores.values.reshape(-1)[i], i))
    assert (values[order[:count]] == seq_len).all()
    others = values[order[count:]]
    if len(others):
        assert others.min() >= least and others.max() - others.min() <= 1, "what is left widens the windows evenly"


def test_a_share_of_heads_is_whole_or_nothing_is_kept():
    scores = HeadScores(np.array([[0.1, 0.9], [0.5, 0.5]]))
    budgets = RetrievalStreaming(local=4, retrieval_share=0.5).budgets(blank(2, 2, 50), 140, 50, 2, scores)
    assert budgets.values.tolist() == [[20, 50], [50, 20]]
    with pytest.raises(CokvError, match=r"2 whole heads, .*2 sinks and 4 newest .* need 112 .*to at least 28"):
        RetrievalStreaming(local=4, retrieval_share=0.5).budgets(blank(2, 2, 50), 111, 50, 2, scores)


def test_a_total_without_one_whole_head_is_refused():
    with pytest.raises(Infeasible, match=r"1 whole head, and 64 sinks and 256 newest .*to at least 490"):
        RetrievalStreaming().budgets(blank(2, 2, 1000), 4 * 320, 1000, 64, gates(2, 2))
    least = RetrievalStreaming().budgets(blank(2, 2, 1000), 4 * 490, 1000, 64, gates(2, 2))
    assert sorted(least.values.ravel().tolist()) == [320, 320, 320, 1000]


def test_scores_must_be_given_and_fit():
    with pytest.raises(CokvError, match="RetrievalStreaming allocates by head scores and got none"):
        RetrievalStreaming(local=1).budgets(blank(2, 2, 50), 40, 50, 2, None)
    with pytest.raises(CokvError, match=r"\[2, 2\]"):
        RetrievalStreaming(local=1).budgets(blank(2, 2, 50), 40, 50, 2, gates(3, 2))


@pytest.mark.parametrize(
    ("field", "value"), [("local", 0), ("local", 1.0), ("retrieval_share", 1.0), ("retrieval_share", 0.0)]
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(CokvError, match=field):
        RetrievalStreaming(**{field: value})


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.75, 0.95])
def test_the_total_of_a_released_sparsity_gives_its_retrieval_heads(sparsity):
    """Gates of which many are 0 or 1 exactly, as the published ones are."""
    values = np.clip(np.random.default_rng(0).normal(0.4, 0.6, (8, 4)), 0, 1)
    pattern = DuoPattern(values, sink_size=4, recent_size=12)
    retrieve = pattern.retrieval_heads(sparsity)
    total = int(retrieve.sum()) * 100 + int((~retrieve).sum()) * 16
    budgets = RetrievalStreaming(local=12).budgets(blank(8, 4, 100), total, 100, 4, pattern.scores())
    assert ((budgets.values == 100) == retrieve).all() and (budgets.values[~retrieve] == 16).all()
