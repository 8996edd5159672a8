"""CAKE's indicator and its two measures equal the attention matrix in loops."""

import numpy as np
import pytest
import torch

from cokv.methods.scorers import blocks
from cokv.methods.scorers.cake import CakeScorer
from cokv.types import CokvError


def written_out(world, window, kernel, gamma):
    """Indicator [num_kv_heads, columns], entropy and variance [num_kv_heads, 2]."""
    seq_len = world.keys.shape[1]
    columns = seq_len - window
    group = world.queries.shape[0] // len(world.keys)
    high, both = np.zeros((len(world.keys), columns)), np.zeros((len(world.keys), 2))
    for head, matrix in enumerate(world.attention()):
        kv_head = head // group
        line = np.zeros(columns)
        for j in range(columns):
            column = [matrix[row, j] for row in range(seq_len - window, seq_len)]
            mean = sum(column) / window
            variance = sum((a - mean) ** 2 for a in column) / (window - 1)
            line[j] = mean + gamma * variance
            both[kv_head] += sum(-a * np.log(a) for a in column if a > 0), variance
        for j in range(columns):
            around = [line[i] for i in range(j - kernel // 2, j + kernel // 2 + 1) if 0 <= i < columns]
            high[kv_head, j] += sum(around) / kernel / group
    return high, both


@pytest.mark.parametrize(("seq_len", "window", "kernel"), [(23, 5, 5), (24, 8, 1), (9, 8, 3), (17, 2, 9)])
@pytest.mark.parametrize("gamma", [0.0, 200.0])
def test_scores_and_measures_equal_the_matrix_written_out(make_world, heads, kind, seq_len, window, kernel, gamma):
    world = make_world(*heads, seq_len, kind=kind)
    scorer = CakeScorer(window, kernel, gamma)
    high, both = written_out(world, window, kernel, gamma)
    scores = scorer.scores(world.layer(held=window))
    np.testing.assert_allclose(scores[:, : seq_len - window].numpy(), high, rtol=2e-4, atol=1e-6)
    assert torch.isinf(scores[:, seq_len - window :]).all()
    measured = scorer.measure(world.layer(held=window))
    assert measured.dtype == np.float64 and measured.shape == (heads[1], 2)
    np.testing.assert_allclose(measured, both, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("seq_len", [1, 4, 8])
def test_a_prompt_no_longer_than_the_window_is_all_window(make_world, seq_len):
    layer = make_world(4, 2, seq_len).layer()
    assert torch.isinf(CakeScorer(window_size=8).scores(layer)).all()


def test_heads_too_large_to_hold_at_once_score_the_same(make_world, monkeypatch):
    layer, scorer = make_world(6, 3, 30).layer(), CakeScorer(window_size=6)
    scores, measured = scorer.scores(layer), scorer.measure(layer)
    monkeypatch.setattr(blocks, "CHUNK", 1)
    torch.testing.assert_close(scorer.scores(layer), scores, rtol=1e-6, atol=0)
    np.testing.assert_allclose(scorer.measure(layer), measured, rtol=1e-6)


def test_of_two_tokens_looked_at_alike_the_one_looked_at_in_turns_wins(make_world):
    world = make_world(1, 1, 20)
    world.keys[:], world.queries[:] = 0, 0
    world.keys[0, 3, 0] = world.keys[0, 9, 1] = 8
    world.queries[0, -4:, 0] = torch.tensor([2.0, 2.0, 2.0, 2.0])
    world.queries[0, -4:, 1] = torch.tensor([0.0, 4.0, 0.0, 4.0])
    score = CakeScorer(window_size=4, kernel_size=1).scores(world.layer())
    assert score[0, 9] > score[0, 3]


@pytest.mark.parametrize(("field", "value"), [("window_size", 1), ("kernel_size", 4), ("gamma", -1.0), ("gamma", True)])
def test_a_bad_field_is_named(field, value):
    with pytest.raises(CokvError, match=field):
        CakeScorer(**{field: value})


def test_a_window_above_half_the_budget_says_what_to_change():
    with pytest.raises(CokvError, match=r"kv_budget 15 is below 16.*window_size to at most 7"):
        CakeScorer(window_size=8).check_budget(15)
