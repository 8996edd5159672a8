"""What every method's selection must obey."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cokv.cache.policies.growth import Grow
from cokv.methods.method import NORMALIZED
from cokv.methods.policies.tova import TOVAEviction
from cokv.methods.registry import METHODS, describe_methods, get_method
from cokv.methods.scorers.last_query import LastQuery
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.types import CokvError, HeadScores

PAIRS = [(name, preset) for name, method in METHODS.items() for preset in (NORMALIZED, *method.presets)]
HEADS = [(4, 4), (4, 2), (4, 1)]  # MHA, GQA, MQA


def keeps(selection, layer, head):
    return set(selection.head(layer, head).tolist())


# What every selection obeys


@settings(deadline=None, max_examples=30)
@given(
    heads=st.sampled_from(HEADS),
    num_layers=st.integers(1, 4),
    seq_len=st.integers(1, 70),
    window=st.sampled_from([2, 4, 8]),
    kv_budget=st.integers(16, 80),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_spends_exactly_the_total(
    prefill, small, profile_for, name, heads, num_layers, seq_len, window, kv_budget, seed
):
    num_heads, num_kv_heads = heads
    prefilled = prefill(num_layers, num_heads, num_kv_heads, seq_len, window, seed)
    method = small(name, window=window)
    if name in ("razorattention", "duoattention"):  # one whole head, others 2 sinks and 3 newest
        heads_together = num_layers * num_kv_heads
        assume(kv_budget >= seq_len or kv_budget * heads_together >= (heads_together - 1) * min(5, seq_len) + seq_len)
    selection = method.select(prefilled, kv_budget, profile_for(name, num_layers, num_kv_heads, seed))
    assert selection.counts.shape == (num_layers, num_kv_heads) and selection.seq_len == seq_len
    each = seq_len if method.scorer is None else min(kv_budget, seq_len)
    assert selection.total == each * num_layers * num_kv_heads
    for layer, head in np.ndindex(num_layers, num_kv_heads):
        positions = selection.head(layer, head)
        assert (positions.diff() > 0).all(), "not ascending or repeated"
        if method.scorer is not None:
            kept_anyway = torch.isinf(method.scorer.scores(prefilled.layers[layer])[head]).nonzero()[:, 0]
            assert len(kept_anyway) == method.scorer.reserved(seq_len)
            assert set(kept_anyway.tolist()) <= keeps(selection, layer, head)


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_the_same_prefill_gives_the_same_selection(prefill, small, profile_for, name, preset):
    prefilled, scores = prefill(num_kv_heads=4), profile_for(name, num_kv_heads=4)
    method = small(name, preset)
    assert method.select(prefilled, 20, scores) == method.select(prefilled, 20, scores)


@pytest.mark.parametrize(("name", "preset"), PAIRS)
@pytest.mark.parametrize("kv_budget", [48, 49, 10_000])
def test_a_budget_of_the_whole_prompt_keeps_the_whole_prompt(prefill, small, profile_for, name, preset, kv_budget):
    selection = small(name, preset).select(prefill(num_kv_heads=4), kv_budget, profile_for(name, num_kv_heads=4))
    assert selection.mask().all()


@pytest.mark.parametrize("name", METHODS)
def test_a_prompt_shorter_than_the_window_is_kept_whole(prefill, small, profile_for, name):
    prefilled = prefill(seq_len=5)
    assert small(name).select(prefilled, 16, profile_for(name)).mask().all()


def test_uniform_methods_keep_the_best_tokens_of_each_head_and_the_window(prefill, small):
    prefilled = prefill()
    method = small("snapkv")
    selection = method.select(prefilled, 20)
    for index, layer in enumerate(prefilled.layers):
        scores = method.scorer.scores(layer)
        for head in range(2):
            ranked = sorted(range(40), key=lambda j: (-scores[head, j].item(), j))
            assert keeps(selection, index, head) == set(ranked[:12]) | set(range(40, 48))


def test_each_head_keeps_its_best_tokens_under_uneven_budgets(prefill, small, profile):
    prefilled = prefill(seed=4)
    for name in ("pyramidkv", "adakv", "cokv"):
        method = small(name)
        selection = method.select(prefilled, 20, profile())
        assert np.ptp(selection.counts) > 0, "the budgets should differ here"
        for index, layer in enumerate(prefilled.layers):
            scores = method.scorer.scores(layer)
            for head in range(2):
                ranked = sorted(range(48), key=lambda j: (-scores[head, j].item(), j))
                assert keeps(selection, index, head) == set(ranked[: selection.counts[index, head]])


@dataclass(frozen=True)
class Coarse:
    """Scores with many ties: a window of 8, then three levels."""

    window_size: int = 8

    def reserved(self, seq_len):
        return 8

    def check_budget(self, kv_budget):
        pass

    def scores(self, layer):
        levels = torch.arange(layer.keys.shape[1]).remainder(3).float().expand(layer.keys.shape[0], -1).clone()
        levels[:, -8:] = torch.inf
        return levels


@pytest.mark.parametrize("name", ["snapkv", "adakv"])
def test_ties_go_to_the_earlier_position(prefill, name):
    selection = replace(get_method(name), scorer=Coarse()).select(prefill(), 24)
    level_two, level_one = set(range(2, 40, 3)), set(range(1, 40, 3))
    for layer, head in np.ndindex(3, 2):
        count = selection.counts[layer, head]
        kept = (sorted(level_two) + sorted(level_one))[: count - 8]
        assert keeps(selection, layer, head) == set(kept) | set(range(40, 48))
    if name == "snapkv":
        assert (selection.counts == 24).all()
    else:
        assert (selection.counts[:, 0] > selection.counts[:, 1]).all(), "ties at Ada's edge go to the lower head"


def test_streaming_keeps_sinks_and_the_newest(prefill):
    selection = get_method("streamingllm").select(prefill(), 10)
    for layer, head in np.ndindex(3, 2):
        assert keeps(selection, layer, head) == {0, 1, 2, 3, 42, 43, 44, 45, 46, 47}


def test_full_asks_for_no_budget(prefill):
    assert get_method("full").select(prefill(), None).mask().all()


def test_a_planted_token_survives_a_small_budget(prefill):
    prefilled = prefill(seq_len=400, spread=0.05)
    for layer in prefilled.layers:
        layer.window_queries[..., 0] = 20
        layer.keys[:, 137, 0] = 2
    for name in ("snapkv", "pyramidkv", "adakv"):
        selection = get_method(name, window_size=8, kernel_size=1).select(prefilled, 40)
        assert selection.mask()[:, :, 137].all(), name
    assert not get_method("streamingllm").select(prefilled, 40).mask()[:, :, 137].any()


# Scoring once


def test_methods_with_equal_scorers_score_a_prefill_once(prefill, small, profile, monkeypatch):
    calls = []
    original = WindowAttention.scores
    monkeypatch.setattr(WindowAttention, "scores", lambda self, layer: calls.append(1) or original(self, layer))
    prefilled, cache = prefill(), {}
    shared = [
        small(name).select(prefilled, budget, profile(), cache)
        for name in ("snapkv", "pyramidkv", "adakv", "cokv")
        for budget in (16, 20)
    ]
    assert len(calls) == len(prefilled.layers)
    alone = [
        small(name).select(prefilled, budget, profile())
        for name in ("snapkv", "pyramidkv", "adakv", "cokv")
        for budget in (16, 20)
    ]
    assert shared == alone


def test_scores_of_another_prefill_are_never_used(prefill, small):
    cache = {}
    first, second = prefill(seed=1), prefill(seed=2)
    method = small("snapkv")
    method.select(first, 20, score_cache=cache)
    assert method.select(second, 20, score_cache=cache) == method.select(second, 20)
    assert method.select(first, 20, score_cache=cache) == method.select(first, 20)


def test_other_settings_are_other_scores(prefill):
    cache, prefilled = {}, prefill()
    for kernel_size in (1, 7):
        method = get_method("snapkv", window_size=8, kernel_size=kernel_size)
        assert method.select(prefilled, 20, score_cache=cache) == method.select(prefilled, 20)
    assert len(cache) == 2


# Scorers that need more than the scores


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_what_a_method_needs_of_the_prefill_it_says(prefill, small, profile_for, name, preset):
    prefilled, method = prefill(num_kv_heads=4), small(name, preset)
    for layer in prefilled.layers:
        dict.update(layer.observed, {observer: layer.observed.get(observer) for observer in method.observers})
        object.__setattr__(layer, "observed", dict(layer.observed))
    alone = method.select(prefilled, 20, profile_for(name, num_kv_heads=4))
    assert alone == method.select(prefill(num_kv_heads=4), 20, profile_for(name, num_kv_heads=4))


@pytest.mark.parametrize("name", [name for name in METHODS if get_method(name).observers])
def test_a_prefill_that_did_not_look_names_the_method_and_what_to_do(prefill, small, profile_for, name):
    prefilled = prefill()
    for layer in prefilled.layers:
        object.__setattr__(layer, "observed", {})
    with pytest.raises(CokvError, match=rf"{name}: needs \w+, which this prefill did not look for"):
        small(name).select(prefilled, 20, profile_for(name))


def test_h2o_keeps_half_of_the_budget_for_the_newest(prefill):
    prefilled = prefill()
    selection = get_method("h2o").select(prefilled, 21)
    for layer, head in np.ndindex(3, 2):
        scores = get_method("h2o").scorer.scores(prefilled.layers[layer])[head]
        best = sorted(range(38), key=lambda j: (-scores[j].item(), j))[:11]
        assert keeps(selection, layer, head) == set(best) | set(range(38, 48))


def test_kvpress_keeps_the_newest_token_where_tovas_paper_may_not(prefill):
    prefilled = prefill(num_kv_heads=4)
    for layer in prefilled.layers:
        layer.keys[:, -1], layer.window_queries[:, -1] = -9, 1
    assert not get_method("tova").select(prefilled, 20).mask()[..., -1].any()
    theirs = get_method("tova", "kvpress")
    assert theirs.select(prefilled, 20).mask()[..., -1].all()
    assert (theirs.policy, get_method("tova").policy) == (Grow(), TOVAEviction()), "a press acts on the prompt alone"
    shown = {row["preset"]: (row["policy"], row["needs"]) for row in describe_methods() if row["name"] == "tova"}
    assert shown["kvpress"] == ("Grow", LastQuery.reads) and shown["normalized"][0] == "TOVAEviction"


def test_kvpress_counts_the_window_into_criticals_first_stage(prefill):
    """With a window of half the budget, its first stage chooses nothing beyond the window."""
    prefilled = prefill(seed=3)
    ours, theirs = (
        get_method("criticalkv", preset, window_size=8, kernel_size=1, pooling="max").select(prefilled, 16)
        for preset in ("normalized", "kvpress")
    )
    alone = get_method("criticalkv", window_size=8, kernel_size=1, first_stage=0.0).select(prefilled, 16)
    assert theirs == alone and ours != alone


def test_lukv_follows_its_curves_with_either_scorer(prefill, small, profile_for):
    prefilled, curves = prefill(num_kv_heads=4), profile_for("lukv", num_kv_heads=4)
    ours, theirs = (small("lukv", preset).select(prefilled, 20, curves) for preset in ("normalized", "kvpress"))
    assert np.ptp(ours.counts) > 0 and np.corrcoef(ours.counts.flat, theirs.counts.flat)[0, 1] > 0.9
    assert theirs.mask()[..., [0, 1, 47]].all(), "sinks and the newest"


def test_a_profile_of_another_kind_is_refused(prefill, small):
    kind = {"kind": "sliced Shapley value"}
    scores = HeadScores(np.arange(6.0).reshape(3, 2), kind)
    assert small("cokv").select(prefill(), 20, scores).total == 20 * 6
    others = {name for name, method in METHODS.items() if method.needs_profile} - {"cokv", "kivi_by_score"}
    for name in sorted(others):
        with pytest.raises(CokvError, match=rf"{name}: needs .* and got a profile of kind 'sliced Shapley value'"):
            small(name).select(prefill(), 20, scores)


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_a_layer_alone_gives_the_same_selection_where_it_can(prefill, small, profile_for, name, preset):
    prefilled, method, scores = prefill(num_kv_heads=4), small(name, preset), profile_for(name, num_kv_heads=4)
    assert method.layer_local == (METHODS[name].name not in ("fastgen", "cake", "kvzip"))
    if method.layer_local:
        whole = method.select(prefilled, 20, scores)
        for place, layer in enumerate(prefilled.layers):
            alone = method.select_layer(layer, place, 3, 20, scores)
            assert [kept.tolist() for kept in alone] == [whole.head(place, h).tolist() for h in range(4)]
