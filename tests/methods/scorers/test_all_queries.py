"""Scorers of all prompt queries equal the whole attention matrix in loops, and never hold it."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cokv import probes
from cokv.cache.prefill import prefill
from cokv.methods.keep_best import keep_best
from cokv.methods.scorers import blocks
from cokv.methods.scorers.accumulated_attention import AccumulatedAttention, AttentionSum
from cokv.methods.scorers.causal import causal_attention
from cokv.methods.scorers.fastgen import TierSums
from cokv.methods.scorers.scissorhands import BelowAverage, ScissorhandsScorer
from cokv.types import Budgets, CokvError


@pytest.mark.parametrize("seq_len", [1, 2, 23])
def test_accumulated_attention_is_the_sum_of_each_column(make_world, heads, kind, seq_len):
    world = make_world(*heads, seq_len, kind=kind)
    expected = world.by_kv_head(np.array([[column.sum() for column in matrix.T] for matrix in world.attention()]))
    scores = AccumulatedAttention().scores(world.layer([AttentionSum()]))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-5, atol=1e-6)
    assert scores.sum().item() == pytest.approx(heads[1] * seq_len, rel=1e-5), "every query gives out 1"


@pytest.mark.parametrize("seq_len", [1, 2, 23])
@pytest.mark.parametrize("history", [1, 7, 400])
@pytest.mark.parametrize("count_unseen", [True, False])
def test_counters_say_who_was_passed_over(make_world, heads, kind, seq_len, history, count_unseen):
    world = make_world(*heads, seq_len, kind=kind)
    counts = np.zeros((heads[0], seq_len))
    close = np.zeros((heads[0], seq_len))
    for head, matrix in enumerate(world.attention()):
        for row in range(max(seq_len - history, 0), seq_len):
            for column in range(row + 1):
                counts[head, column] += matrix[row, column] < 1 / (row + 1)
                close[head, column] += abs(matrix[row, column] * (row + 1) - 1) < 1e-5
            counts[head, row + 1 :] += count_unseen
    scorer = ScissorhandsScorer(history=history, recent=4, count_unseen=count_unseen)
    scores = scorer.scores(world.layer(scorer.observers)).numpy()
    kept = min(4, seq_len)
    assert np.isinf(scores[:, seq_len - kept :]).all() and np.isfinite(scores[:, : seq_len - kept]).all()
    sure = world.by_kv_head(close)[:, : seq_len - kept] == 0  # elsewhere rounding decides
    off = np.abs(scores[:, : seq_len - kept] + world.by_kv_head(counts)[:, : seq_len - kept])
    assert off[sure].max(initial=0) < 1e-5


@pytest.mark.parametrize("observer", [AttentionSum(), BelowAverage(history=17), TierSums(0.3), TierSums(0.0)], ids=str)
@pytest.mark.parametrize("chunk", [1, 200, 1000])
def test_the_size_of_the_blocks_changes_nothing(make_world, monkeypatch, observer, chunk):
    view = make_world(4, 2, 40).view()
    whole = observer.observe(view)
    monkeypatch.setattr(blocks, "CHUNK", chunk)
    torch.testing.assert_close(observer.observe(view), whole, rtol=1e-5, atol=1e-6)


class Made(TorchDispatchMode):
    """How many numbers are converted to another dtype, and the most that one operation makes."""

    def __init__(self):
        super().__init__()
        self.converted = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.converted += out.numel() if func is torch.ops.aten._to_copy.default else 0
            self.most = max(self.most, out.numel())
        return out


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(8, 8), (8, 2), (8, 1)])
def test_each_key_and_query_is_converted_once(monkeypatch, num_heads, num_kv_heads):
    """However small the blocks: else a long prompt's cost is that of reading all keys again for every few queries."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(num_heads, 64, 4, generator=generator).bfloat16()
    keys = torch.randn(num_kv_heads, 64, 4, generator=generator).bfloat16()
    monkeypatch.setattr(blocks, "CHUNK", 2 * num_heads * 64)
    conversions = 0
    with Made() as created:
        for _, row, weights in causal_attention(queries, keys, 0.5, first=8):
            group_size, rows, columns = weights.shape
            assert group_size == num_heads // num_kv_heads and columns == row + rows
            conversions += group_size * rows
    assert conversions == num_heads * 56
    assert created.converted == keys.numel() + num_heads * 56 * 4
    assert created.most <= max(blocks.CHUNK, queries.numel())


def test_half_of_each_heads_slots_go_to_the_newest(make_world):
    world = make_world(4, 2, 30, kind="sink")
    scorer = AccumulatedAttention()
    layer = world.layer(scorer.observers)
    scores = scorer.scores(layer)
    counts = torch.tensor([9, 20])
    refined = scorer.refine(layer, scores, counts)
    assert torch.isinf(refined).sum(-1).tolist() == [4, 10]
    kept = keep_best([refined], Budgets(counts.numpy()[None]))
    for head, (count, recent) in enumerate([(9, 4), (20, 10)]):
        best = sorted(range(30 - recent), key=lambda j: (-scores[head, j].item(), j))[: count - recent]
        assert set(kept.head(0, head).tolist()) == set(best) | set(range(30 - recent, 30))


def test_a_token_that_everybody_looks_at_stays(make_world):
    world = make_world(4, 2, 60, kind="sink")
    for scorer in (AccumulatedAttention(), ScissorhandsScorer(recent=5)):
        scores = scorer.scores(world.layer(scorer.observers))
        assert (scores[:, :30].argmax(-1) == 0).all(), scorer


def test_a_prefill_that_did_not_look_says_what_to_do(make_world):
    for scorer in (AccumulatedAttention(), ScissorhandsScorer()):
        with pytest.raises(CokvError, match=r"did not look for; call prefill\(..., observers=method.observers\)"):
            scorer.scores(make_world(4, 2, 9).layer())


@pytest.mark.parametrize(
    ("scorer", "field", "value"),
    [
        (AccumulatedAttention, "recent_share", 1.5),
        (AccumulatedAttention, "recent_share", True),
        (ScissorhandsScorer, "history", 0),
        (ScissorhandsScorer, "recent", -1),
        (ScissorhandsScorer, "recent", 2.0),
    ],
)
def test_a_bad_field_is_named(scorer, field, value):
    with pytest.raises(CokvError, match=field):
        scorer(**{field: value})


def test_budgets_too_small_say_what_to_change():
    AccumulatedAttention().check_budget(2)
    ScissorhandsScorer().check_budget(11)
    with pytest.raises(CokvError, match="at least 2"):
        AccumulatedAttention().check_budget(1)
    with pytest.raises(CokvError, match="recent to at most 9"):
        ScissorhandsScorer().check_budget(10)


@pytest.mark.slow
def test_memory_stays_linear_in_the_prompt(fresh_model):
    """At 16k tokens one head's attention matrix is 1 GiB of float32; what a look costs is far below."""
    model = fresh_model(num_hidden_layers=1, max_position_embeddings=16384)
    ids = torch.randint(1, 97, (16384,), generator=torch.Generator().manual_seed(0))
    observers = [AttentionSum(), BelowAverage(history=400)]

    def peak(observers):
        with probes.measure("cpu") as probe:
            created = prefill(model, ids, 1, observers)
        return probe.result["rss_peak_bytes"], created

    plain, _ = peak([])
    looking, created = peak(observers)
    matrix = 4 * 16384**2
    assert looking - plain < matrix // 2, f"{(looking - plain) / 2**20:.0f} MiB beyond a plain prefill"
    held = sum(t.untyped_storage().nbytes() for o in observers for t in created.layers[0].observation(o))
    assert held == 2 * 4 * 2 * 16384, "one float32 per token, KV head and observer"
