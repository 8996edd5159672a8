"""Official presets on a bfloat16 prefill equal the released steps, each in the dtype that it is released in.

FasterDecoding/SnapKV, snapkv/monkeypatch/snapkv_utils.py; FFY0/AdaKV, adaptive_snapkv/monkeypatch/snapkv_utils.py;
nawei1010/CoKV, adaptive_kv/monkeypatch/kv_utils.py (gqa_support). Logits in the model's dtype, divided by the root of
head_dim and masked there; softmax in float32, cast back; the window's mean, the group's mean and the pooling in the
model's dtype. SnapKV sums over the window: divided by a window of a power of two that is the same number.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cokv.cache.prefill import PrefillLayer
from cokv.methods.registry import METHODS, get_method
from cokv.types import HeadScores

OFFICIAL = {
    name: official.scorer
    for name, official in ((name, m.with_preset("official")) for name, m in METHODS.items() if "official" in m.presets)
    if getattr(official.scorer, "score_dtype", "") == "model"
}


def layer(group_size: int, seed: int, seq_len: int = 150, head_dim: int = 64) -> PrefillLayer:
    """Attention of every size: each query near one key, far from most. Two KV heads. All numbers are multiples of 1/8,
    so that products are exact in whatever order they are summed.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = _eighths(torch.randn(2, seq_len, head_dim, generator=generator))
    at = torch.randint(0, seq_len, (2, group_size, seq_len), generator=generator)
    near = torch.stack([keys[head][at[head]] for head in range(2)]).flatten(0, 1)
    queries = _eighths(near * 0.6 + torch.randn(near.shape, generator=generator) * 0.5)
    return PrefillLayer(0, keys, keys.clone(), queries, head_dim**-0.5)


def _eighths(x: torch.Tensor) -> torch.Tensor:
    return ((x * 8).round() / 8).bfloat16()


def released(prompt_layer: PrefillLayer, window: int, kernel: int, pooling: str, name: str) -> torch.Tensor:
    """Scores before the window, bfloat16 [num_kv_heads, seq_len - window]."""
    heads, head_dim = prompt_layer.window_queries.shape[0], prompt_layer.keys.shape[2]
    num_kv_heads = prompt_layer.keys.shape[0]
    lowest = torch.finfo(torch.bfloat16).min
    per_head = []
    for head in range(heads):
        key = prompt_layer.keys[head * num_kv_heads // heads]
        logits = torch.matmul(prompt_layer.window_queries[head, -window:], key.T) / math.sqrt(head_dim)
        for row in range(window):
            logits[row, len(key) - window + row + 1 :] += lowest
        weights = F.softmax(logits, dim=-1, dtype=torch.float32).to(torch.bfloat16)[:, :-window]
        per_head.append(weights.sum(dim=-2) / window if name == "snapkv" else weights.mean(dim=-2))
    scores = torch.stack(per_head)
    assert scores.dtype == torch.bfloat16
    if heads > num_kv_heads:
        scores = torch.stack([group.mean(dim=0) for group in scores.chunk(num_kv_heads)])
    pool = F.max_pool1d if pooling == "max" else F.avg_pool1d
    return pool(scores, kernel_size=kernel, padding=kernel // 2, stride=1)


def test_they_are_the_methods_whose_released_code_does_so():
    assert {"snapkv", "adakv", "cokv"} <= set(OFFICIAL)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OFFICIAL)
def test_scores_and_kept_tokens_are_those_of_the_released_steps(name: str, seed: int) -> None:
    params = {"alpha": 1} if "alpha" in METHODS[name].with_preset("official").parameters else {}
    method = get_method(name, "official", **params)
    window = method.scorer.window_size
    group_size = 1 if method.scorer.reduce == "per_query_head" else 4
    layers = [layer(group_size, seed), layer(group_size, seed + 10)]
    expected = [
        released(prompt_layer, window, method.scorer.kernel_size, method.scorer.pooling, name)
        for prompt_layer in layers
    ]
    for prompt_layer, line in zip(layers, expected, strict=True):
        scores = method.scorer.scores(prompt_layer)
        assert scores.dtype == torch.float32 and torch.isinf(scores[:, -window:]).all()
        assert torch.equal(scores[:, :-window], line.float())
        assert not torch.equal(scores, replace(method.scorer, score_dtype="float32").scores(prompt_layer))
    prefill = SimpleNamespace(layers=layers, seq_len=150)
    profile = HeadScores(np.array([[0.1, 0.4], [0.2, 0.9]])) if method.needs_profile else None
    for kv_budget in (2 * window, 100):
        kept = method.select(prefill, kv_budget, profile)
        for index, head in np.ndindex(2, 2):
            best = expected[index][head].float().sort(descending=True, stable=True).indices
            chosen = set(best[: kept.counts[index, head] - window].tolist())
            assert set(kept.head(index, head).tolist()) == chosen | set(range(150 - window, 150))
