"""Budgets by the model's best-scored tokens equal one sorted list of (score, layer, head, position)."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.methods.allocators.global_top_k import GlobalTopK


@settings(deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 50),
    st.integers(0, 6),
    st.floats(0, 1.2),
    st.integers(0, 99),
    st.booleans(),
)
def test_each_head_gets_what_it_holds_of_the_best(num_layers, num_kv_heads, seq_len, window, fill, seed, ties):
    window, heads = min(window, seq_len), num_layers * num_kv_heads
    scores = torch.rand(num_layers, num_kv_heads, seq_len, generator=torch.Generator().manual_seed(seed))
    scores = (scores * 3).floor() if ties else scores
    scores[..., seq_len - window :] = torch.inf
    total = heads * window + round(fill * heads * (seq_len - window))
    budgets = GlobalTopK().budgets(list(scores), total, seq_len, window)
    free = [
        (-scores[(*place, j)].item(), *place, j)
        for place in np.ndindex(num_layers, num_kv_heads)
        for j in range(seq_len - window)
    ]
    expected = np.full((num_layers, num_kv_heads), window)
    for _, layer, head, _ in sorted(free)[: total - heads * window]:
        expected[layer, head] += 1
    assert budgets.values.tolist() == expected.tolist()
    assert budgets.total == min(total, heads * seq_len)
