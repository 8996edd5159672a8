"""LU-KV's curves: importance, the scorer's order, hulls and shares against loops over full attention matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop
from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.registry import get_method
from cokv.methods.scorers.expected_attention import ExpectedAttention
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.profiles.answered_prompts import ProfilingPrompt
from cokv.profiles.lukv_curves import in_kept_order, lukv_curves
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import CokvError


def oracle(model, full_attention, full_values, read, seq_len, answer, per_layer) -> np.ndarray:
    """Importance [num_layers, num_kv_heads, seq_len], loop by loop."""
    ids = torch.cat([read, torch.tensor(answer[:-1])])
    attention, values = full_attention(model, ids), full_values(model, ids)
    num_layers, num_heads = attention.shape[:2]
    num_kv_heads, head_dim = values.shape[1], values.shape[3]
    importance = np.zeros((num_layers, num_kv_heads, seq_len))
    for layer in range(num_layers):
        weight = model.model.layers[layer].self_attn.o_proj.weight.double().numpy()
        norms = np.zeros((num_heads, seq_len))
        for head in range(num_heads):
            part = weight[:, head * head_dim : (head + 1) * head_dim]
            for j in range(seq_len):
                norms[head, j] = np.linalg.norm(part @ values[layer, head * num_kv_heads // num_heads, j])
        if per_layer:
            norms /= norms.sum()
        for head in range(num_heads):
            group = head * num_kv_heads // num_heads
            for query in range(seq_len, len(ids)):
                for j in range(seq_len):
                    worth = attention[layer, head, query, j] * norms[head, j]
                    importance[layer, group, j] = max(importance[layer, group, j], worth)
    return importance


def window_scores(attention, num_kv_heads, window, kernel) -> np.ndarray:
    """SnapKV's scores [num_layers, num_kv_heads, n] from attention [num_layers, num_heads, n, n]; inf in the window."""
    num_layers, num_heads, seq_len, _ = attention.shape
    scores, group = np.full((num_layers, num_kv_heads, seq_len), np.inf), num_heads // num_kv_heads
    for layer in range(num_layers):
        for kv_head in range(num_kv_heads):
            means = []
            for j in range(seq_len - window):
                looks = [
                    attention[layer, head, query, j]
                    for head in range(kv_head * group, (kv_head + 1) * group)
                    for query in range(seq_len - window, seq_len)
                ]
                means.append(sum(looks) / len(looks))
            for j in range(seq_len - window):
                near = range(max(j - kernel // 2, 0), min(j + kernel // 2 + 1, seq_len - window))
                scores[layer, kv_head, j] = max(means[i] for i in near)
    return scores


def hull_slopes(increments) -> list[float]:
    """Slope of each slot along the hull: from a corner, straight to the point that lies highest in its direction."""
    curve, slopes = [0.0, *np.cumsum(increments).tolist()], []
    while len(slopes) < len(increments):
        corner = len(slopes)
        slope, end = max(((curve[j] - curve[corner]) / (j - corner), j) for j in range(corner + 1, len(curve)))
        slopes += [slope] * (end - corner)
    return slopes


def shares_at_each_percent(increments) -> np.ndarray:
    """[99, num_layers, num_kv_heads]: slots one by one to the head whose next one is worth most."""
    num_layers, num_kv_heads, seq_len = increments.shape
    slopes = [[*hull_slopes(head), -1.0] for head in increments.reshape(-1, seq_len)]
    counts, after = [0] * len(slopes), []
    for _ in range(len(slopes) * seq_len):
        after.append(list(counts))
        counts[max(range(len(slopes)), key=lambda head: (slopes[head][counts[head]], -head))] += 1
    spent = [round(len(slopes) * seq_len * percent / 100) for percent in range(1, 100)]
    return np.array([after[total] for total in spent]).reshape(99, num_layers, num_kv_heads) / seq_len


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize(("suffix", "per_layer"), [(None, False), (4, True)])
def test_curves_are_those_of_the_full_matrices(
    make_model, prompt, full_attention, full_values, greedy_tokens, heads, suffix, per_layer
):
    model = make_model("llama", heads)
    prompts, expected = [], []
    for seed, seq_len in enumerate((29, 40)):
        ids = prompt(seq_len, seed=seed)
        after = None if suffix is None else prompt(suffix, seed=seed + 9)
        read = ids if after is None else torch.cat([ids, after])
        prompts.append(ProfilingPrompt(ids, Stop(5), after))
        importance = oracle(model, full_attention, full_values, read, seq_len, greedy_tokens(model, read, 5), per_layer)
        scores = window_scores(full_attention(model, ids), importance.shape[1], 4, 3)
        for place in np.ndindex(importance.shape[:2]):
            kept_first = sorted(range(seq_len), key=lambda j, score=scores[place]: (-score[j], j))
            ordered = [importance[place][j] for j in kept_first]
            importance[place] = [1e3] * 4 + ordered[4:]
        expected.append(shares_at_each_percent(importance))
    result = lukv_curves(model, prompts, WindowAttention(window_size=4, kernel_size=3), per_layer=per_layer)
    np.testing.assert_allclose(result.values, np.mean(expected, axis=0), atol=1e-9)
    assert result.provenance["scorer"]["window_size"] == 4


def test_the_window_is_every_heads_first_slots():
    importance = np.random.default_rng(0).random((2, 3, 10))
    scores = np.random.default_rng(1).random((2, 3, 10))
    scores[..., -2:] = np.inf
    ordered = in_kept_order(importance, scores, 2)
    assert (ordered[..., :2] > importance.max()).all()
    for layer, head in np.ndindex(2, 3):
        others = sorted(range(8), key=lambda j, score=scores[layer, head]: -score[j])
        assert ordered[layer, head, 2:].tolist() == [importance[layer, head, j] for j in others]
    ratios = keep_ratios(ordered)
    assert (ratios[19] == 0.2).all(), "at 20 percent every head keeps its two window slots"


@pytest.mark.parametrize("preset", ["normalized", "kvpress"])
def test_a_method_takes_curves_of_its_own_scorer(make_model, prompt, preset):
    model = make_model()
    sizes = {"window_size": 4, "kernel_size": 3} if preset == "normalized" else {}
    method = get_method("lukv", preset, **sizes)
    prefilled = prefill(model, prompt(60), 4, method.observers)
    one = lukv_curves(model, [ProfilingPrompt(prompt(60, seed=3), Stop(4))], method.scorer)
    with pytest.raises(CokvError, match="reliability could not be measured"):
        method.select(prefilled, 20, one)
    curves = RatioCurves(one.values, {"kind": one.provenance["kind"]})
    kept = method.select(prefilled, 20, curves)
    assert kept.total == 20 * 6 and np.ptp(kept.counts) > 0


def test_an_answer_of_one_token_still_looks_back(make_model, prompt):
    result = lukv_curves(make_model(), [ProfilingPrompt(prompt(30), Stop(1))], WindowAttention(window_size=4))
    assert np.ptp(result.values[19]) > 0
    with pytest.raises(CokvError, match="no profiling prompts"):
        lukv_curves(make_model(), [], ExpectedAttention())
