"""Official presets keep what the released code keeps, on random tokens and head scores, rounding leaks included.

Each formula is typed out again from the file and commit named in its docstring: budgets are tokens kept per KV head,
the window included. Prompts of 600 and 1000 tokens; MHA, GQA and MQA; budgets from 64 slots to 90 percent of the
prompt.

The released files of CoKV and HeadKV have 32 layers, 32 query heads and 8 KV heads written into them; here the shape is
the model's. They add up in single precision, the presets in double: the formulas here are in double, and
`test_single_precision_moves_a_share_by_a_slot_at_most` says what that changes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cokv.cache.prefill import PrefillLayer
from cokv.methods.registry import METHODS, get_method
from cokv.types import HeadScores, KVBudget

MODELS = {"mha": (5, 6, 6), "gqa": (6, 12, 4), "mqa": (24, 4, 1)}  # num_layers, num_heads, num_kv_heads
SEQ_LENS = (600, 1000)
KV_BUDGETS = (64, 128, 256, "50%", "90%")
HEADKV = ("headkv_r", "headkv_r2")
HEAD_DIM = 16

every_prompt = pytest.mark.parametrize("seq_len", SEQ_LENS)
every_model = pytest.mark.parametrize("heads", MODELS)
every_budget = pytest.mark.parametrize("kv_budget", KV_BUDGETS)


# --- what is tried on -------------------------------------------------------------------------------------------------


@functools.cache
def prefill(heads: str, seq_len: int) -> Any:
    """Random queries and keys; multiples of 1/8, so that products are exact in whatever order they are summed."""
    num_layers, num_heads, num_kv_heads = MODELS[heads]
    generator = torch.Generator().manual_seed(seq_len)

    def draw(rows: int) -> torch.Tensor:
        return (torch.randn(rows, seq_len, HEAD_DIM, generator=generator) * 12).round() / 8

    layers = []
    for index in range(num_layers):
        keys = draw(num_kv_heads)
        layers.append(PrefillLayer(index, keys, keys.clone(), draw(num_heads)[:, -64:], HEAD_DIM**-0.5))
    return SimpleNamespace(layers=layers, seq_len=seq_len)


def token_scores(heads: str, seq_len: int, window: int, seed: int) -> list[torch.Tensor]:
    """Uneven random scores [num_kv_heads, seq_len] per layer, the window infinite."""
    num_layers, _, num_kv_heads = MODELS[heads]
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for _ in range(num_layers):
        scores = torch.rand(num_kv_heads, seq_len, generator=generator)
        scores *= torch.rand(num_kv_heads, 1, generator=generator)
        scores[:, -window:] = torch.inf
        layers.append(scores)
    return layers


def query_head_scores(heads: str, seed: int = 0) -> np.ndarray:
    """Scores of 0 and more of every query head, a few much larger than the others: [num_layers, num_heads]."""
    num_layers, num_heads, _ = MODELS[heads]
    return np.random.default_rng(seed).exponential(size=(num_layers, num_heads)) ** 2


def shapley_values(heads: str, seed: int = 0) -> np.ndarray:
    """Of either sign, in single precision as CoKV's: [num_layers, num_kv_heads]."""
    num_layers, _, num_kv_heads = MODELS[heads]
    return np.random.default_rng(seed).normal(size=(num_layers, num_kv_heads)).astype(np.float32)


def capacity_of(kv_budget: int | str, seq_len: int) -> int:
    return KVBudget.parse(kv_budget).of(seq_len)


def allocated(
    name: str, heads: str, scores: Sequence[torch.Tensor], kv_budget: int | str, seq_len: int, profile: Any = None
) -> np.ndarray:
    """The official preset's allocator alone, on token scores that are given: [num_layers, num_kv_heads]."""
    method = get_method(name, "official")
    assert method.allocator is not None and method.scorer is not None
    num_layers, _, num_kv_heads = MODELS[heads]
    total = capacity_of(kv_budget, seq_len) * num_layers * num_kv_heads
    return method.allocator.budgets(scores, total, seq_len, method.scorer.reserved(seq_len), profile).values


# --- the released formulas --------------------------------------------------------------------------------------------


def window_attention(layer: PrefillLayer, window: int, kernel: int, pooling: str, agg: str) -> torch.Tensor:
    """Token scores before the window, [num_kv_heads, N - window].

    FasterDecoding/SnapKV, snapkv/monkeypatch/snapkv_utils.py (SnapKVCluster.update_kv), 557aff1c6d01, where the
    window's rows are summed; FFY0/AdaKV, adaptive_snapkv/monkeypatch/snapkv_utils.py (calcul_attn_sore), 1baceda55924,
    where they are averaged, and so are the query heads that share a KV head, before pooling.
    """
    queries, keys = layer.window_queries[:, -window:], layer.keys
    group = queries.shape[0] // keys.shape[0]
    repeated = keys.repeat_interleave(group, dim=0)
    logits = torch.matmul(queries, repeated.transpose(1, 2)) / math.sqrt(queries.shape[-1])
    hidden = torch.full((window, window), torch.finfo(logits.dtype).min).triu(1)
    logits[:, :, -window:] += hidden
    weights = F.softmax(logits, dim=-1, dtype=torch.float32).to(queries.dtype)[:, :, :-window]
    scores = weights.sum(dim=-2) if agg == "sum" else weights.mean(dim=-2)
    if group > 1:
        scores = scores.view(keys.shape[0], group, -1).mean(dim=1)
    pool = F.max_pool1d if pooling == "max" else F.avg_pool1d
    return pool(scores, kernel_size=kernel, padding=kernel // 2, stride=1)


def pyramidkv(capacity: int, seq_len: int, num_layers: int, window: int) -> list[int]:
    """Tokens per head of each layer: Zefan-Cai/KVCache-Factory, pyramidkv/pyramidkv_utils.py
    (PyramidKVCluster.update_kv, beta = 20), 5fb995d72366.
    """
    beyond = capacity - window
    if seq_len < capacity:
        return [seq_len] * num_layers
    least = beyond // 20
    most = 2 * beyond - least
    if most >= seq_len - window:
        most = seq_len - window
        least = 2 * beyond - most
    if seq_len < 2 * beyond:
        return [beyond + window] * num_layers
    step = (most - least) // (num_layers - 1)
    return [most - index * step + window for index in range(num_layers)]


def adakv(scores: torch.Tensor, capacity: int, window: int, alpha: float) -> list[int]:
    """Tokens per head of one layer: FFY0/AdaKV, adaptive_snapkv/monkeypatch/snapkv_utils.py
    (AdaptiveSnapKVCluster.update_kv_gqa, normalize off, skip 0), 1baceda55924. scores: [num_kv_heads, N - window].
    """
    num_kv_heads, length = scores.shape
    beyond = capacity - window
    if beyond > length:
        return [length + window] * num_kv_heads
    ranked = scores.sort(dim=-1, descending=True).values
    best = torch.topk(ranked.reshape(-1), k=num_kv_heads * beyond).indices // length
    counts = torch.zeros(num_kv_heads, dtype=best.dtype).scatter_add_(0, best, torch.ones_like(best))
    whole = torch.round(counts * (1 - alpha) + int(beyond * alpha)).int()
    return [len(range(length)[:each]) + window for each in whole.tolist()]


def headkv(
    scores: np.ndarray,
    num_kv_heads: int,
    capacity: int,
    seq_len: int,
    window: int,
    beta: float,
    sums: type = np.float64,
) -> np.ndarray:
    """Tokens per KV head: nawei1010/CoKV, adaptive_kv/monkeypatch/kv_utils.py (set_headkv_size), e76afada3171. scores:
    [num_layers, num_heads]. sums: precision in which query heads are added up, released np.float32.
    """
    num_layers, num_heads = scores.shape
    beyond = capacity - window
    share = scores / scores.sum()
    pool = (beyond // beta) * num_layers * num_heads
    each = beyond - beyond // beta
    per_query_head = (share * pool + each).reshape(num_layers, num_kv_heads, -1)
    group_sums = np.zeros((num_layers, num_kv_heads), dtype=sums)
    for member in range(per_query_head.shape[2]):
        group_sums = (group_sums + per_query_head[..., member]).astype(sums)
    whole = np.floor(group_sums / sums(per_query_head.shape[2]))
    return _kept(whole, beyond, seq_len, window)


def headkv_per_query_head(scores: np.ndarray, capacity: int, seq_len: int, window: int, beta: float) -> np.ndarray:
    """Tokens per query head: FYYFU/HeadKV, headkv/snapkv_utils.py (ReasonSnapKVCluster, temp = 1), 3ec96530a9fd."""
    beyond = capacity - window
    share = scores / scores.sum()
    whole = np.rint(share * (beyond // beta) * scores.size + (beyond - beyond // beta))
    return _kept(whole, beyond, seq_len, window)


def cokv(values: np.ndarray, capacity: int, seq_len: int, window: int, alpha: int) -> np.ndarray:
    """Tokens per KV head: nawei1010/CoKV, adaptive_kv/monkeypatch/kv_utils.py (set_cokv_size), e76afada3171, in the
    precision of `values`.
    """
    beyond = capacity - window
    border = sorted(values.reshape(-1).tolist())[alpha - 1]
    above = np.maximum(values - values.dtype.type(border), values.dtype.type(0))
    whole = above.dtype.type(0)
    for value in above.reshape(-1):
        whole = whole + value
    shares = np.trunc(above / whole * above.dtype.type(beyond * values.size))
    return _kept(shares, beyond, seq_len, window)


def _kept(beyond_each: np.ndarray, beyond: int, seq_len: int, window: int) -> np.ndarray:
    """update_kv_gqa_with_given_adaptive_size there: a head keeps what there is, and nobody gets the difference."""
    if beyond > seq_len - window:
        return np.full(beyond_each.shape, seq_len)
    return np.minimum(beyond_each, seq_len - window).astype(np.int64) + window


# --- the presets ------------------------------------------------------------------------------------------------------


def test_every_official_preset_has_its_formula_here() -> None:
    official = {name for name, method in METHODS.items() if "official" in method.presets}
    assert official == {"full", "snapkv", "pyramidkv", "adakv", *HEADKV, "cokv"}, "full keeps everything"


@every_budget
@every_prompt
def test_snapkv_keeps_the_released_positions(seq_len: int, kv_budget: int | str) -> None:
    method = get_method("snapkv", "official")
    window, prompt = method.scorer.window_size, prefill("mha", seq_len)
    capacity = capacity_of(kv_budget, seq_len)
    selection = method.select(prompt, kv_budget)
    assert (selection.counts == capacity).all()
    for index, layer in enumerate(prompt.layers):
        scores = window_attention(layer, window, kernel=5, pooling="avg", agg="sum")
        best = scores.topk(capacity - window, dim=-1).indices
        for head, positions in enumerate(best.tolist()):
            released = sorted(positions) + list(range(seq_len - window, seq_len))
            assert selection.head(index, head).tolist() == released, (index, head)


@every_budget
@every_prompt
@every_model
def test_pyramidkv_has_the_released_budgets(heads: str, seq_len: int, kv_budget: int | str) -> None:
    method = get_method("pyramidkv", "official")
    num_layers, _, num_kv_heads = MODELS[heads]
    line = pyramidkv(capacity_of(kv_budget, seq_len), seq_len, num_layers, method.scorer.window_size)
    expected = [[slots] * num_kv_heads for slots in line]
    assert method.select(prefill(heads, seq_len), kv_budget).counts.tolist() == expected


@every_prompt
def test_pyramidkv_is_uniform_from_the_released_budget_on(seq_len: int) -> None:
    """Where the prompt is shorter than twice the budget beyond the window, and not one slot earlier."""
    method, (num_layers, _, num_kv_heads) = get_method("pyramidkv", "official"), MODELS["gqa"]
    half = seq_len // 2 + method.scorer.window_size
    spreads = []
    for kv_budget in (half - 1, half, half + 1):
        line = pyramidkv(kv_budget, seq_len, num_layers, method.scorer.window_size)
        kept = method.select(prefill("gqa", seq_len), kv_budget).counts
        assert kept.tolist() == [[slots] * num_kv_heads for slots in line]
        spreads.append(int(np.ptp(kept)))
    assert spreads[0] > 0 and spreads[1] > 0 and spreads[2] == 0


@every_budget
@every_prompt
@every_model
def test_adakv_has_the_released_budgets(heads: str, seq_len: int, kv_budget: int | str) -> None:
    method = get_method("adakv", "official")
    window, alpha = method.scorer.window_size, method.parameters["floor_alpha"]
    capacity = capacity_of(kv_budget, seq_len)
    prompt = prefill(heads, seq_len)
    selection = method.select(prompt, kv_budget)
    for index, layer in enumerate(prompt.layers):
        scores = window_attention(layer, window, kernel=7, pooling="max", agg="mean")
        assert selection.counts[index].tolist() == adakv(scores, capacity, window, alpha), index
    for seed in range(3):
        layers = token_scores(heads, seq_len, window, seed)
        budgets = allocated("adakv", heads, layers, kv_budget, seq_len)
        expected = [adakv(scores[:, :-window], capacity, window, alpha) for scores in layers]
        assert budgets.tolist() == expected, seed


@every_budget
@every_prompt
@every_model
@pytest.mark.parametrize("name", HEADKV)
def test_headkv_has_the_released_budgets(name: str, heads: str, seq_len: int, kv_budget: int | str) -> None:
    method = get_method(name, "official")
    window, beta = method.scorer.window_size, method.parameters["beta"]
    num_layers, _, num_kv_heads = MODELS[heads]
    capacity = capacity_of(kv_budget, seq_len)
    for seed in range(3):
        scores = query_head_scores(heads, seed)
        profile = HeadScores(scores.reshape(num_layers, num_kv_heads, -1).mean(axis=2))
        expected = headkv(scores, num_kv_heads, capacity, seq_len, window, beta)
        layers = token_scores(heads, seq_len, window, seed)
        np.testing.assert_array_equal(allocated(name, heads, layers, kv_budget, seq_len, profile), expected)
        kept = method.select(prefill(heads, seq_len), kv_budget, profile)
        np.testing.assert_array_equal(kept.counts, expected)


@every_budget
@every_prompt
@every_model
def test_cokv_has_the_released_budgets(heads: str, seq_len: int, kv_budget: int | str) -> None:
    method = get_method("cokv", "official")
    window, alpha = method.scorer.window_size, method.parameters["alpha"]
    capacity = capacity_of(kv_budget, seq_len)
    for seed in range(3):
        values = shapley_values(heads, seed).astype(np.float64)
        expected = cokv(values, capacity, seq_len, window, alpha)
        layers, profile = token_scores(heads, seq_len, window, seed), HeadScores(values)
        np.testing.assert_array_equal(allocated("cokv", heads, layers, kv_budget, seq_len, profile), expected)
        kept = method.select(prefill(heads, seq_len), kv_budget, profile)
        np.testing.assert_array_equal(kept.counts, expected)
        assert (expected == window).sum() >= alpha and expected.max() <= seq_len


# --- where they leave the released code -------------------------------------------------------------------------------


@every_model
def test_single_precision_moves_a_share_by_a_slot_at_most(heads: str) -> None:
    alpha = get_method("cokv", "official").parameters["alpha"]
    num_kv_heads, moved, count = MODELS[heads][2], 0, 0
    for seed in range(50):
        values, scores = shapley_values(heads, seed), query_head_scores(heads, seed)
        for pair in (
            [cokv(values.astype(kind), 256, 1000, 8, alpha) for kind in (np.float32, np.float64)],
            [headkv(scores, num_kv_heads, 256, 1000, 8, 1.5, kind) for kind in (np.float32, np.float64)],
        ):
            assert np.abs(pair[0] - pair[1]).max() <= 1
            moved, count = moved + int((pair[0] != pair[1]).sum()), count + values.size
    assert moved <= count / 100, "one head in a hundred at most"


@every_budget
@every_prompt
def test_a_cache_per_query_head_rounds_headkvs_shares_to_the_nearest(seq_len: int, kv_budget: int | str) -> None:
    """The preset floors them, as the KV-head form does: up to a slot per head less."""
    method, scores = get_method("headkv_r2", "official"), query_head_scores("mha")
    capacity, window = capacity_of(kv_budget, seq_len), method.scorer.window_size
    released = headkv_per_query_head(scores, capacity, seq_len, window, method.parameters["beta"])
    ours = method.select(prefill("mha", seq_len), kv_budget, HeadScores(scores)).counts
    assert set(np.unique(released - ours)) == {0, 1}


def test_the_totals_are_missed_as_released() -> None:
    """The line of PyramidKV ends above its least; what the others floor, and what a full head cannot take, is lost."""
    nominal = 128 * 24
    scores, values = query_head_scores("gqa"), shapley_values("gqa").astype(np.float64)
    profile = HeadScores(scores.reshape(6, 4, -1).mean(axis=2))
    prompt = prefill("gqa", 1000)
    totals = {
        "pyramidkv": get_method("pyramidkv", "official").select(prompt, 128).total,
        "headkv_r2": get_method("headkv_r2", "official").select(prompt, 128, profile).total,
        "cokv": get_method("cokv", "official").select(prompt, 128, HeadScores(values)).total,
    }
    assert totals["pyramidkv"] > nominal > totals["headkv_r2"] and nominal > totals["cokv"], totals
    half = get_method("cokv", "official").select(prompt, "50%", HeadScores(values))
    assert half.counts.max() == 1000 and half.total < 0.9 * 500 * 24, "four heads share what twenty do not get"
    by_layer = get_method("adakv", "official").select(prompt, 128).counts.sum(axis=1)
    assert by_layer.tolist() != [128 * 4] * 6 and np.abs(by_layer - 128 * 4).max() <= 4, "AdaKV rounds each head alone"
