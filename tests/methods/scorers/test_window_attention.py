"""Window attention equals the full attention matrix written out, for every grouping of heads and awkward length."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cokv.methods.scorers import blocks
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.types import CokvError


def layer(num_heads, num_kv_heads, seq_len, head_dim=4, held=None, seed=0, dtype=torch.float32, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: (torch.randn(*shape, generator=generator) * spread).to(dtype)  # noqa: E731
    held = seq_len if held is None else held
    queries = draw(num_heads, seq_len, head_dim)
    return SimpleNamespace(
        layer_idx=0,
        keys=draw(num_kv_heads, seq_len, head_dim),
        values=draw(num_kv_heads, seq_len, head_dim),
        window_queries=queries[:, seq_len - held :],
        scaling=head_dim**-0.5,
        softcap=None,
        sinks=None,
    )


def written_out(layer, window, kernel, pooling):
    """The whole N x N causal attention of every query head in float64, then loops."""
    queries = layer.window_queries.double().numpy()  # all N queries: made with held = seq_len
    keys = layer.keys.double().numpy()
    num_heads, seq_len, _ = queries.shape
    num_kv_heads = keys.shape[0]
    group = num_heads // num_kv_heads
    window = min(window, seq_len)
    columns = seq_len - window
    scores = np.full((num_kv_heads, seq_len), np.inf)
    for kv_head in range(num_kv_heads):
        mean = np.zeros(columns)
        for head in range(kv_head * group, (kv_head + 1) * group):
            for row in range(seq_len - window, seq_len):
                logits = np.array([queries[head, row] @ keys[kv_head, j] * layer.scaling for j in range(row + 1)])
                weights = np.exp(logits - logits.max())
                weights /= weights.sum()
                mean += weights[:columns] / (window * group)
        for j in range(columns):
            around = [mean[i] for i in range(j - kernel // 2, j + kernel // 2 + 1) if 0 <= i < columns]
            scores[kv_head, j] = max(around) if pooling == "max" else sum(around) / kernel
    return scores


HEADS = [(4, 4), (4, 2), (4, 1), (6, 2), (1, 1)]  # MHA, GQA, MQA, a group of three, one head


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
@pytest.mark.parametrize(("seq_len", "window", "kernel"), [(23, 5, 7), (24, 8, 1), (9, 8, 7), (17, 1, 3), (12, 4, 9)])
@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_scores_equal_the_attention_matrix_written_out(num_heads, num_kv_heads, seq_len, window, kernel, pooling):
    scored_layer = layer(num_heads, num_kv_heads, seq_len)
    scores = WindowAttention(window, kernel, pooling).scores(scored_layer)
    assert scores.dtype == torch.float32 and scores.shape == (num_kv_heads, seq_len)
    np.testing.assert_allclose(scores.numpy(), written_out(scored_layer, window, kernel, pooling), rtol=2e-5, atol=1e-7)


def test_more_queries_than_needed_change_nothing():
    scorer = WindowAttention(window_size=4)
    whole = scorer.scores(layer(4, 2, 30))
    for held in (4, 5, 17):
        assert torch.equal(scorer.scores(layer(4, 2, 30, held=held)), whole)


def test_fewer_queries_than_needed_are_an_error_that_names_both_numbers():
    with pytest.raises(CokvError, match=r"holds 3 window queries, 4 are needed"):
        WindowAttention(window_size=4).scores(layer(4, 2, 30, held=3))


@pytest.mark.parametrize("seq_len", [1, 3, 8])
def test_a_prompt_no_longer_than_the_window_is_all_window(seq_len):
    scores = WindowAttention(window_size=8).scores(layer(4, 2, seq_len))
    assert torch.isinf(scores).all() and WindowAttention(window_size=8).reserved(seq_len) == seq_len


def test_exactly_the_window_is_infinite_and_pooling_lets_nothing_of_it_leak():
    scored_layer = layer(4, 2, 20)
    scored_layer.window_queries[:, -4:] = torch.tensor([10.0, 0, 0, 0])
    scored_layer.keys[:, :, 0] = 0
    scored_layer.keys[:, -4:, 0] = 10  # the window looks at itself alone
    scores = WindowAttention(window_size=4, kernel_size=7).scores(scored_layer)
    assert torch.isinf(scores).nonzero()[:, 1].unique().tolist() == [16, 17, 18, 19]
    reference = written_out(scored_layer, 4, 7, "max")
    np.testing.assert_allclose(scores.numpy(), reference, rtol=2e-5, atol=1e-7)
    assert scores[:, :16].max() < 1e-3, "window columns reached their neighbours through the pooling"


def test_a_planted_token_and_its_neighbours_score_highest():
    scored_layer = layer(4, 2, 40, seed=3, spread=0.01)
    scored_layer.window_queries[:, -8:] = 0
    scored_layer.window_queries[:, -8:, 0] = 10
    scored_layer.keys[1, 13, 0] = 10
    scores = WindowAttention(window_size=8, kernel_size=5).scores(scored_layer)
    top = scores[1, :32].topk(5).indices.sort().values
    assert top.tolist() == [11, 12, 13, 14, 15]
    assert scores[0, :32].max() < scores[1, :32].max() / 2, "the plant sits in KV head 1 alone"


def test_groups_of_heads_too_large_to_hold_at_once_score_the_same(monkeypatch):
    scored_layer = layer(8, 4, 33)
    scorer = WindowAttention(window_size=6)
    whole = scorer.scores(scored_layer)
    for chunk in (1, 2 * 2 * 6 * 33, 3 * 2 * 6 * 33):
        monkeypatch.setattr(blocks, "CHUNK", chunk)
        torch.testing.assert_close(scorer.scores(scored_layer), whole, rtol=1e-6, atol=0)


def test_scores_of_a_bfloat16_prefill_are_made_in_float32_by_default():
    scored_layer = layer(4, 2, 30, dtype=torch.bfloat16)
    scores = WindowAttention(window_size=4).scores(scored_layer)
    np.testing.assert_allclose(scores.numpy(), written_out(scored_layer, 4, 7, "max"), rtol=2e-5, atol=1e-7)
    rounded = WindowAttention(window_size=4, score_dtype="model").scores(scored_layer)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, rounded.bfloat16().float()) and not torch.equal(rounded, scores)


def test_the_model_dtype_changes_nothing_where_the_model_is_float32():
    scored_layer = layer(4, 2, 30)
    assert torch.equal(
        WindowAttention(4).scores(scored_layer), WindowAttention(4, score_dtype="model").scores(scored_layer)
    )


def test_scores_per_query_head_need_query_heads_that_share_nothing():
    alone = WindowAttention(4, reduce="per_query_head")
    scored_layer = layer(4, 4, 30)
    assert torch.equal(alone.scores(scored_layer), WindowAttention(4).scores(scored_layer))
    with pytest.raises(CokvError, match="2 query heads share"):
        alone.scores(layer(4, 2, 30))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window_size", 0),
        ("window_size", 2.0),
        ("window_size", True),
        ("kernel_size", 4),
        ("kernel_size", -1),
        ("pooling", "median"),
        ("reduce", "sum"),
        ("score_dtype", "int8"),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(CokvError, match=field):
        WindowAttention(**{field: value})


def test_a_window_above_half_the_budget_says_what_to_change():
    WindowAttention(8).check_budget(16)
    with pytest.raises(CokvError, match=r"kv_budget 15 is below 16.*window of 8.*window_size to at most 7"):
        WindowAttention(8).check_budget(15)
