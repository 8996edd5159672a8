"""docs/fidelity.md is complete, names tests that exist and states the defaults that are; and what no other test shows.

Of the second part, each test restates one step of a released file, at the commit that the page names for it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.methods.allocators.cake import CakeAllocator
from cokv.methods.allocators.global_top_k import GlobalTopK
from cokv.methods.allocators.lukv import LUKV
from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.registry import METHODS, get_method
from cokv.profiles.lukv_file import RatioCurves

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ALL = "All methods"


def sections() -> dict[str, str]:
    """Heading -> text."""
    parts = re.split(r"^## (.*)$", PAGE, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def names(heading: str) -> list[str]:
    return re.findall(r"`(\w+)`", heading)


def rows(text: str) -> list[list[str]]:
    """Cells of every row of the tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {i for i, line in enumerate(lines) if line.startswith("|---")}
    body = [line for i, line in enumerate(lines) if i not in rules and i + 1 not in rules]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_every_method_has_its_section() -> None:
    described = [name for heading in sections() if heading != ALL for name in names(heading)]
    assert sorted(described) == sorted(METHODS)


def test_every_preset_is_mentioned() -> None:
    for heading, text in sections().items():
        for name in names(heading):
            for preset in ("normalized", *METHODS[name].presets):
                assert f"`{preset}`" in text, f"{heading}: preset {preset} of {name}"


def test_every_line_has_a_test() -> None:
    for heading, text in sections().items():
        assert rows(text), f"{heading} has no table"
        for cells in rows(text):
            assert TEST.search(cells[-1]), f"{heading}: {cells[0]}"


def test_every_test_exists() -> None:
    known: dict[str, set[str]] = {}
    for file, name in TEST.findall(PAGE):
        if file not in known:
            assert (ROOT / file).is_file(), f"{file}, of {name}"
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            known[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in known[file], f"{file} has no {name}"


def test_parameters_have_the_values_of_the_page() -> None:
    """Lines of which the first cell is a parameter: all values that the section's methods have by default."""
    checked = 0
    for heading, text in sections().items():
        for cells in rows(text):
            parameter = re.fullmatch(r"`(\w+)`", cells[0])
            if len(cells) != 4 or parameter is None:
                continue
            values = {METHODS[name].parameters.get(parameter[1], "no parameter") for name in names(heading)}
            values.discard("no parameter")
            assert sorted(map(str, values)) == sorted(cells[2].split(", ")), f"{heading}: {parameter[1]}"
            checked += 1
    assert checked > 40


# --- what no other test shows -----------------------------------------------------------------------------------------


def blank(num_layers: int, num_kv_heads: int, seq_len: int) -> list[torch.Tensor]:
    return [torch.zeros(num_kv_heads, seq_len) for _ in range(num_layers)]


@pytest.mark.parametrize("kv_budget", [4, 11, 20, 40])
def test_h2o_keeps_what_the_released_cache_keeps(prefill, kv_budget: int) -> None:
    """h2o_hf/utils_real_drop/modify_llama.py, H2OKVCache_LayerWise: rows summed, the best before the newest half."""
    prompt = prefill(num_heads=4, num_kv_heads=4, window=48)
    recent_size = kv_budget // 2
    kept = get_method("h2o").select(prompt, kv_budget)
    for index, layer in enumerate(prompt.layers):
        logits = torch.matmul(layer.window_queries, layer.keys.transpose(1, 2)) * layer.scaling
        hidden = torch.full((48, 48), torch.finfo(logits.dtype).min).triu(1)
        hh_score = torch.softmax(logits + hidden, dim=-1).sum(dim=1)
        best = hh_score[:, : 48 - recent_size].topk(kv_budget - recent_size, dim=-1).indices
        for head in range(4):
            released = sorted(best[head].tolist()) + list(range(48 - recent_size, 48))
            assert kept.head(index, head).tolist() == released


def adjusted(shares: np.ndarray, total: int, most: int) -> np.ndarray:
    """CAKE's layer budgets beyond the window: cake/utils.py, adjust_budgets."""
    whole = shares.astype(int)
    excess = int(np.maximum(whole - most, 0).sum())
    whole = np.minimum(whole, most)
    for amount in (excess, None):
        amount = total - int(whole.sum()) if amount is None else amount
        takers = np.flatnonzero(whole < most)
        if amount > 0 and takers.size:
            whole[takers] += amount // takers.size
            whole[takers[: amount % takers.size]] += 1
    return whole


def test_cake_hands_out_what_is_left_otherwise() -> None:
    window, num_layers, num_kv_heads, more_than_a_slot = 32, 8, 2, 0
    for seed in range(20):
        measured = np.random.default_rng(seed).uniform(0.1, 3, (num_layers, num_kv_heads, 2))
        preference = np.prod(measured.sum(axis=1), axis=1)
        for kv_budget, seq_len in ((128, 4000), (512, 1000)):
            beyond = (kv_budget - window) * num_layers
            shares = preference / preference.sum() * beyond
            released = adjusted(shares, beyond, seq_len - window) + window
            total = kv_budget * num_layers * num_kv_heads
            scores = blank(num_layers, num_kv_heads, seq_len)
            ours = CakeAllocator().budgets(scores, total, seq_len, window, measured).values
            assert ours.sum() == total == released.sum() * num_kv_heads
            off = np.abs(ours - released[:, None]).max()
            full = bool((shares > seq_len - window).any())
            assert full or off <= 1, "of shares that fit, only the remainders are handed out otherwise"
            more_than_a_slot += int(off > 1)
    assert more_than_a_slot > 0, "no layer was full"


def test_cake_compresses_what_the_released_code_keeps_whole(prefill, small) -> None:
    """cake/cake_cache.py, CakeprefillKVCache: nothing is evicted up to cache_size + window_size tokens."""
    method, kv_budget, window = small("cake"), 20, 8
    prompt = prefill(seq_len=kv_budget + window)
    assert method.scorer.window_size == window
    assert method.select(prompt, kv_budget).total == kv_budget * 6 < prompt.seq_len * 6


@pytest.mark.parametrize("kv_budget", [200, 205, 500, 504])
def test_kvpress_rounds_lukvs_shares_per_layer_and_percent(kv_budget: int) -> None:
    """kvpress/presses/lukv_press.py, LUKVPress.compress, on the curves as dropped shares."""
    seq_len, shape = 1000, (6, 4)
    importance = np.random.default_rng(0).exponential(size=(*shape, 120)) * np.linspace(1, 3, 24).reshape(*shape, 1)
    curves = RatioCurves(keep_ratios(importance))
    dropped = 1 - curves.values[::-1]
    line = max(0, min(98, round((1 - kv_budget / seq_len) * 100) - 1))
    released = np.empty(shape, dtype=np.int64)
    for index in range(shape[0]):
        ideal = (1 - dropped[line, index]).clip(0, 1) * seq_len
        missing = round(ideal.sum()) - int(np.floor(ideal).sum())
        whole = np.floor(ideal).astype(np.int64)
        whole[np.argsort(-(ideal - whole), kind="stable")[: max(missing, 0)]] += 1
        released[index] = whole.clip(1, seq_len)
    total = kv_budget * 24
    ours = LUKV().budgets(blank(*shape, seq_len), total, seq_len, 0, curves).values
    assert ours.sum() == total
    assert abs(released.sum() - total) <= 0.005 * seq_len * 24 + shape[0] / 2
    if kv_budget % 10 == 0:
        assert np.abs(released - ours).max() <= 1, "at a whole percent only the rounding differs"
    else:
        assert released.sum() != total


@pytest.mark.parametrize("ties", [False, True])
def test_kvzips_released_threshold_drops_its_own_token_and_all_that_tie(ties: bool) -> None:
    """attention/score.py, KVScore._threshold."""
    scores = torch.rand(3, 2, 200, generator=torch.Generator().manual_seed(0))
    scores = (scores * 20).floor() / 20 if ties else scores
    for ratio in (0.1, 0.5, 0.9):
        total = int(scores.numel() * ratio)
        ranked = scores.reshape(-1).sort(descending=True).values
        released = scores > ranked[max(total - 1, 0)]
        ours = GlobalTopK().budgets(list(scores), total, 200, 0)
        assert ours.total == total
        if ties:
            assert released.sum() < total - 1
        else:
            assert released.sum() == total - 1
            assert np.abs(ours.values - released.sum(dim=-1).numpy()).sum() == 1


def test_arkvales_released_box_bounds_no_product() -> None:
    """source/arkvale/infer_state.py, InferState._summarize_keys: the mean distance from the centre on either side."""
    draw = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 5, 32, 16, generator=draw)  # [heads, pages, tokens, head_dim]
    queries = torch.randn(2, 1, 16, generator=draw)
    low, high = keys.amin(dim=2), keys.amax(dim=2)
    centre = (low + high) / 2
    reach = (centre[:, :, None] - keys).abs().mean(dim=2)
    products = torch.einsum("hptd,hgd->hpt", keys, queries).amax(dim=2)
    counts, policy = torch.tensor([5, 5]), Recall(128, 32)
    free = slice(1, 4)  # neither the oldest nor the newest page, which stay
    ours = policy.scores(queries, low, high, counts)[:, free]
    released = policy.scores(queries, centre - reach, centre + reach, counts)[:, free]
    assert (ours >= products[:, free]).all() and (released < ours).all()
    far = keys.clone()
    far[:, :, 0] = 8 * queries  # one token that the query asks for, among 31 others
    low, high = far.amin(dim=2), far.amax(dim=2)
    centre = (low + high) / 2
    reach = (centre[:, :, None] - far).abs().mean(dim=2)
    released = policy.scores(queries, centre - reach, centre + reach, counts)[:, free]
    assert (released < torch.einsum("hptd,hgd->hpt", far, queries).amax(dim=2)[:, free]).any()


def test_kivi_keeps_about_as_many_newest_tokens_as_released() -> None:
    """models/llama_kivi.py, LlamaAttention_KIVI.forward on a prompt: the keys and values that are not quantized."""
    policy = Quantize(2, 32, 128)
    for tokens in range(128, 2000):
        full = tokens - 32 * policy.groups(tokens)
        released_keys, released_values = tokens % 128, min(tokens, 128)
        assert 97 <= full <= 128 == released_values and 0 <= released_keys <= 127


@pytest.mark.parametrize("pruned", [0.3, 0.4, 0.5])
def test_think_prunes_the_released_channels(pruned: float) -> None:
    """ThinK_eager/src/kv_pruning_utils.py, key_pruner_query_driven, on as many query heads as KV heads."""
    draw = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(4, 32, 64, generator=draw), torch.randn(4, 300, 64, generator=draw)
    product = queries.pow(2).mean(dim=1) * keys.pow(2).mean(dim=1)
    gone = product.topk(int(64 * pruned), dim=-1, largest=False).indices
    ours = PruneChannels(pruned).channels(queries.square().sum(dim=1), keys.square().sum(dim=1))
    for head in range(4):
        assert set(ours[head].tolist()) == set(range(64)) - set(gone[head].tolist())
