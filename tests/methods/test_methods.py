"""The table, and what every method's selection must obey."""

from dataclasses import FrozenInstanceError, dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.prefill import PrefillLayer
from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.method import NORMALIZED
from cokv.methods.policies.tova import TOVAEviction
from cokv.methods.registry import METHODS, describe_methods, get_method
from cokv.methods.scorers.last_query import LastQuery
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.model.observe import LayerView, ModelParts, Replayer
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import CokvError, HeadScores

PAIRS = [(name, preset) for name, method in METHODS.items() for preset in (NORMALIZED, *method.presets)]
HEADS = [(4, 4), (4, 2), (4, 1)]  # MHA, GQA, MQA


class Parts(ModelParts):
    """Stands for a model and a tokenizer: a few special tokens and marks, W_O all ones, plain RoPE."""

    def output_weight(self, layer_idx, num_heads, head_dim):
        return torch.ones(num_heads, head_dim, 3)

    def rotary(self, layer_idx, positions):
        angles = positions[:, None] * torch.tensor([1.0, 0.01, 1.0, 0.01])
        return angles.cos(), angles.sin()

    def special_ids(self):
        return {0}

    def text(self, token):
        return "." if token % 7 == 3 else "word"

    def ids(self, text):
        return [1] * len(text)


class Looks(dict):
    """What observers would have seen, looked up when asked for."""

    def __init__(self, view):
        self.view = view

    def get(self, observer, default=None):
        if isinstance(observer, Replayer):
            (passage,) = observer.passages(self.view.input_ids, self.view.parts)
            t = len(passage.ids)
            keys = self.view.keys
            last = torch.randn(keys.shape[0], t, 4, generator=torch.Generator().manual_seed(1))
            queries = self.view.queries[:, :1] + torch.linspace(-1, 1, t)[None, :, None]
            return (observer.look(queries, torch.cat([keys, last], 1), self.view.scaling, passage),)
        return observer.observe(self.view)


def prefill(num_layers=3, num_heads=4, num_kv_heads=2, seq_len=48, window=8, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator) * spread  # noqa: E731
    layers = []
    for index in range(num_layers):
        keys, values = draw(num_kv_heads, seq_len, 4), draw(num_kv_heads, seq_len, 4)
        queries = draw(num_heads, seq_len, 4)
        view = LayerView(index, torch.arange(seq_len), queries, keys, values, 0.5, Parts(None))
        held = queries[:, max(seq_len - window, 0) :]
        layers.append(PrefillLayer(index, keys, values, held, 0.5, Looks(view)))
    ids = torch.arange(seq_len)
    return SimpleNamespace(layers=layers, seq_len=seq_len, input_ids=ids, first_logits=torch.zeros(7))


def profile(num_layers=3, num_kv_heads=2, seed=0):
    return HeadScores(np.random.default_rng(seed).normal(size=(num_layers, num_kv_heads)))


def profile_for(name, num_layers=3, num_kv_heads=2, seed=0):
    """Of the kind that the method takes."""
    scores = profile(num_layers, num_kv_heads, seed)
    if name == "lukv":
        importance = np.random.default_rng(seed).exponential(size=(num_layers, num_kv_heads, 40))
        return RatioCurves(keep_ratios(importance))
    return HeadScores(np.abs(scores.values)) if name != "cokv" else scores


FITS = {"kernel_size": 3, "alpha": 1, "local": 3, "recent": 3, "num_sinks": 2, "retrieval_share": 0.0}


def small(name, preset="normalized", window=8):
    """The method with settings that fit a toy prompt."""
    fits = {**FITS, "window_size": window, "num_sinks": 4 if name == "streamingllm" else 2}
    known = METHODS[name].with_preset(preset).parameters
    return get_method(name, preset, **{key: value for key, value in fits.items() if key in known})


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
def test_every_method_spends_exactly_the_total(name, heads, num_layers, seq_len, window, kv_budget, seed):
    num_heads, num_kv_heads = heads
    made = prefill(num_layers, num_heads, num_kv_heads, seq_len, window, seed)
    method = small(name, window=window)
    selection = method.select(made, kv_budget, profile_for(name, num_layers, num_kv_heads, seed))
    assert selection.counts.shape == (num_layers, num_kv_heads) and selection.seq_len == seq_len
    each = seq_len if method.scorer is None else min(kv_budget, seq_len)
    assert selection.total == each * num_layers * num_kv_heads
    for layer, head in np.ndindex(num_layers, num_kv_heads):
        positions = selection.head(layer, head)
        assert (positions.diff() > 0).all(), "not ascending or repeated"
        if method.scorer is not None:
            kept_anyway = torch.isinf(method.scorer.scores(made.layers[layer])[head]).nonzero()[:, 0]
            assert len(kept_anyway) == method.scorer.reserved(seq_len)
            assert set(kept_anyway.tolist()) <= keeps(selection, layer, head)


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_the_same_prefill_gives_the_same_selection(name, preset):
    made, scores = prefill(num_kv_heads=4), profile_for(name, num_kv_heads=4)
    method = small(name, preset)
    assert method.select(made, 20, scores) == method.select(made, 20, scores)


@pytest.mark.parametrize(("name", "preset"), PAIRS)
@pytest.mark.parametrize("kv_budget", [48, 49, 10_000])
def test_a_budget_of_the_whole_prompt_keeps_the_whole_prompt(name, preset, kv_budget):
    selection = small(name, preset).select(prefill(num_kv_heads=4), kv_budget, profile_for(name, num_kv_heads=4))
    assert selection.mask().all()


@pytest.mark.parametrize("name", METHODS)
def test_a_prompt_shorter_than_the_window_is_kept_whole(name):
    made = prefill(seq_len=5)
    assert small(name).select(made, 16, profile_for(name)).mask().all()


def test_uniform_methods_keep_the_best_tokens_of_each_head_and_the_window():
    made = prefill()
    method = small("snapkv")
    selection = method.select(made, 20)
    for index, layer in enumerate(made.layers):
        scores = method.scorer.scores(layer)
        for head in range(2):
            ranked = sorted(range(40), key=lambda j: (-scores[head, j].item(), j))
            assert keeps(selection, index, head) == set(ranked[:12]) | set(range(40, 48))


def test_each_head_keeps_its_best_tokens_under_uneven_budgets():
    made = prefill(seed=4)
    for name in ("pyramidkv", "adakv", "cokv"):
        method = small(name)
        selection = method.select(made, 20, profile())
        assert np.ptp(selection.counts) > 0, "the budgets should differ here"
        for index, layer in enumerate(made.layers):
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
def test_ties_go_to_the_earlier_position(name):
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


def test_streaming_keeps_sinks_and_the_newest():
    selection = get_method("streamingllm").select(prefill(), 10)
    for layer, head in np.ndindex(3, 2):
        assert keeps(selection, layer, head) == {0, 1, 2, 3, 42, 43, 44, 45, 46, 47}


def test_full_asks_for_no_budget():
    assert get_method("full").select(prefill(), None).mask().all()


def test_a_planted_token_survives_a_small_budget():
    made = prefill(seq_len=400, spread=0.05)
    for layer in made.layers:
        layer.window_queries[..., 0] = 20
        layer.keys[:, 137, 0] = 2
    for name in ("snapkv", "pyramidkv", "adakv"):
        selection = get_method(name, window_size=8, kernel_size=1).select(made, 40)
        assert selection.mask()[:, :, 137].all(), name
    assert not get_method("streamingllm").select(made, 40).mask()[:, :, 137].any()


# Scoring once


def test_methods_with_equal_scorers_score_a_prefill_once(monkeypatch):
    calls = []
    original = WindowAttention.scores
    monkeypatch.setattr(WindowAttention, "scores", lambda self, layer: calls.append(1) or original(self, layer))
    made, cache = prefill(), {}
    shared = [
        small(name).select(made, budget, profile(), cache)
        for name in ("snapkv", "pyramidkv", "adakv", "cokv")
        for budget in (16, 20)
    ]
    assert len(calls) == len(made.layers)
    alone = [
        small(name).select(made, budget, profile())
        for name in ("snapkv", "pyramidkv", "adakv", "cokv")
        for budget in (16, 20)
    ]
    assert shared == alone


def test_scores_of_another_prefill_are_never_used():
    cache = {}
    first, second = prefill(seed=1), prefill(seed=2)
    method = small("snapkv")
    method.select(first, 20, score_cache=cache)
    assert method.select(second, 20, score_cache=cache) == method.select(second, 20)
    assert method.select(first, 20, score_cache=cache) == method.select(first, 20)


def test_other_settings_are_other_scores():
    cache, made = {}, prefill()
    for kernel_size in (1, 7):
        method = get_method("snapkv", window_size=8, kernel_size=kernel_size)
        assert method.select(made, 20, score_cache=cache) == method.select(made, 20)
    assert len(cache) == 2


# Errors


@pytest.mark.parametrize("bad", [0, -3, 2.5, True, None, "0.2", "120%"])
def test_a_budget_is_a_positive_whole_number(bad):
    with pytest.raises(CokvError, match=r"snapkv: kv_budget is .* expected a positive whole number"):
        small("snapkv").select(prefill(), bad)


@pytest.mark.parametrize("name", ["snapkv", "pyramidkv", "adakv", "cokv"])
@pytest.mark.parametrize("kv_budget", [1, 7, 8, 15])
def test_a_window_above_half_the_budget_is_an_error(name, kv_budget):
    with pytest.raises(CokvError, match=rf"{name}: kv_budget {kv_budget} is below 16"):
        small(name).select(prefill(), kv_budget, profile())


def test_a_budget_of_sinks_alone_is_an_error():
    with pytest.raises(CokvError, match="streamingllm: kv_budget 4 leaves no slot"):
        get_method("streamingllm").select(prefill(), 4)


def test_cokv_needs_scores_of_this_model_even_where_nothing_is_dropped():
    for kv_budget in (20, 1000):
        with pytest.raises(CokvError, match="cokv: needs sliced Shapley values and got none"):
            small("cokv").select(prefill(), kv_budget)
        with pytest.raises(CokvError, match=r"cokv: .*\[3, 2\]"):
            small("cokv").select(prefill(num_kv_heads=4), kv_budget, profile())


def test_nan_in_a_prefill_is_an_error_that_names_the_layer():
    made = prefill()
    made.layers[1].keys[0, 3, 0] = torch.nan
    with pytest.raises(CokvError, match="snapkv: token scores of layer 1 hold NaN"):
        small("snapkv").select(made, 20)


def test_too_few_window_queries_name_the_method():
    with pytest.raises(CokvError, match="snapkv: the prefill holds 4 window queries"):
        small("snapkv").select(prefill(window=4), 20)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: get_method("snap-kv"), ["unknown method 'snap-kv'", "did you mean snapkv", "cokv"]),
        (lambda: get_method("CoKV"), ["did you mean cokv"]),
        (lambda: get_method("zzz"), ["unknown method 'zzz'; valid: full, streamingllm"]),
        (lambda: get_method("snapkv", "offical"), ["unknown preset 'offical'", "did you mean official"]),
        (lambda: get_method("streamingllm", "official"), ["unknown preset 'official'", "valid: normalized"]),
        (lambda: get_method("snapkv", windowsize=8), ["did you mean window_size", "kernel_size"]),
        (lambda: get_method("adakv", exact=False), ["unknown parameter 'exact'"]),
        (lambda: get_method("full", window_size=8), ["unknown parameter 'window_size'; valid: none"]),
        (lambda: get_method("snapkv", window_size=0), ["snapkv: window_size is 0"]),
    ],
)
def test_unknown_names_list_the_nearest_and_the_valid(call, words):
    with pytest.raises(CokvError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# Scorers that need more than the scores


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_what_a_method_needs_of_the_prefill_it_says(name, preset):
    made, method = prefill(num_kv_heads=4), small(name, preset)
    for layer in made.layers:
        dict.update(layer.observed, {observer: layer.observed.get(observer) for observer in method.observers})
        object.__setattr__(layer, "observed", dict(layer.observed))
    alone = method.select(made, 20, profile_for(name, num_kv_heads=4))
    assert alone == method.select(prefill(num_kv_heads=4), 20, profile_for(name, num_kv_heads=4))


@pytest.mark.parametrize("name", [name for name in METHODS if get_method(name).observers])
def test_a_prefill_that_did_not_look_names_the_method_and_what_to_do(name):
    made = prefill()
    for layer in made.layers:
        object.__setattr__(layer, "observed", {})
    with pytest.raises(CokvError, match=rf"{name}: needs \w+, which this prefill did not look for"):
        small(name).select(made, 20, profile_for(name))


def test_h2o_keeps_half_of_the_budget_for_the_newest():
    made = prefill()
    selection = get_method("h2o").select(made, 21)
    for layer, head in np.ndindex(3, 2):
        scores = get_method("h2o").scorer.scores(made.layers[layer])[head]
        best = sorted(range(38), key=lambda j: (-scores[j].item(), j))[:11]
        assert keeps(selection, layer, head) == set(best) | set(range(38, 48))


def test_kvpress_keeps_the_newest_token_where_tovas_paper_may_not():
    made = prefill(num_kv_heads=4)
    for layer in made.layers:
        layer.keys[:, -1], layer.window_queries[:, -1] = -9, 1
    assert not get_method("tova").select(made, 20).mask()[..., -1].any()
    theirs = get_method("tova", "kvpress")
    assert theirs.select(made, 20).mask()[..., -1].all()
    assert (theirs.policy, get_method("tova").policy) == (Grow(), TOVAEviction()), "a press acts on the prompt alone"
    shown = {row["preset"]: (row["policy"], row["needs"]) for row in describe_methods() if row["name"] == "tova"}
    assert shown["kvpress"] == ("Grow", LastQuery.reads) and shown["normalized"][0] == "TOVAEviction"


def test_kvpress_counts_the_window_into_criticals_first_stage():
    """With a window of half the budget, its first stage chooses nothing beyond the window."""
    made = prefill(seed=3)
    ours, theirs = (
        get_method("criticalkv", preset, window_size=8, kernel_size=1, pooling="max").select(made, 16)
        for preset in ("normalized", "kvpress")
    )
    alone = get_method("criticalkv", window_size=8, kernel_size=1, first_stage=0.0).select(made, 16)
    assert theirs == alone and ours != alone


def test_lukv_follows_its_curves_with_either_scorer():
    made, curves = prefill(num_kv_heads=4), profile_for("lukv", num_kv_heads=4)
    ours, theirs = (small("lukv", preset).select(made, 20, curves) for preset in ("normalized", "kvpress"))
    assert np.ptp(ours.counts) > 0 and np.corrcoef(ours.counts.flat, theirs.counts.flat)[0, 1] > 0.9
    assert theirs.mask()[..., [0, 1, 47]].all(), "sinks and the newest"


def test_a_profile_of_another_kind_is_refused():
    kind = {"kind": "sliced Shapley value"}
    scores = HeadScores(np.ones((3, 2)), kind)
    assert small("cokv").select(prefill(), 20, scores).total == 20 * 6
    for name in PROFILED - {"cokv", "kivi_by_score"}:
        with pytest.raises(CokvError, match=rf"{name}: needs .* and got a profile of kind 'sliced Shapley value'"):
            small(name).select(prefill(), 20, scores)


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_a_layer_alone_gives_the_same_selection_where_it_can(name, preset):
    made, method, scores = prefill(num_kv_heads=4), small(name, preset), profile_for(name, num_kv_heads=4)
    assert method.layer_local == (METHODS[name].name not in ("fastgen", "cake", "kvzip"))
    if method.layer_local:
        whole = method.select(made, 20, scores)
        for place, layer in enumerate(made.layers):
            alone = method.select_layer(layer, place, 3, 20, scores)
            assert [kept.tolist() for kept in alone] == [whole.head(place, h).tolist() for h in range(4)]


# The table


PROFILED = {"cokv", "kivi_by_score", "headkv_r", "headkv_r2", "lukv", "duoattention", "razorattention"}
EVICTING = ("streamingllm", "h2o", "scissorhands", "tova", "fastgen", "cake")  # while decoding too


def test_the_table_has_the_methods():
    assert list(METHODS) == [
        *("full", *EVICTING),
        *("snapkv", "pyramidkv", "adakv", "criticalkv", "kvzip", "knorm", "keydiff", "expectedattention"),
        *("headkv_r", "headkv_r2", "lukv", "cokv", "razorattention", "duoattention"),
        *("arkvale", "kivi2", "kivi4", "kivi8", "kivi_by_score", "kivi_at_random", "snapkv_kivi4"),
        *("think", "snapkv_think"),
    ]
    with pytest.raises(TypeError):
        METHODS["mine"] = METHODS["full"]
    with pytest.raises(FrozenInstanceError):
        METHODS["full"].policy = Grow()


def test_every_row_is_complete():
    rows = describe_methods()
    assert [(row["name"], row["preset"]) for row in rows] == PAIRS
    for row in rows:
        assert all(isinstance(value, str) and value for key, value in row.items() if key != "parameters"), row
        assert row["paper"].startswith(("https://arxiv.org/abs/", "https://openreview.net/")) or row["name"] == "full"
    assert {name for name, method in METHODS.items() if method.needs_profile} == PROFILED
    assert all(METHODS[name].profile in METHODS[name].needs for name in PROFILED)
    assert {name for name, method in METHODS.items() if type(method.policy) is EvictOldest} == {"streamingllm"}


def test_a_method_that_evicts_while_decoding_has_a_policy_of_its_own():
    evicting = [name for name, m in METHODS.items() if isinstance(m.policy, EvictOldest | EvictsByAttention)]
    assert evicting == [*EVICTING, "duoattention"]
    assert len({type(METHODS[name].policy) for name in evicting}) == len(evicting)


def test_every_method_says_what_it_looks_at():
    for name, preset in PAIRS:
        method = get_method(name, preset)
        if method.scorer is not None and (method.scorer.window_size or method.observers):
            assert "attention" in method.needs or "queries" in method.needs, (name, method.needs)


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_every_listed_parameter_is_taken_and_recorded(name, preset):
    known = get_method(name, preset).parameters
    method, policy = get_method(name, preset, **known), type(get_method(name, preset).policy).__name__
    assert method == get_method(name, preset)
    assert method.spec() == {"method": name, "preset": preset, "policy": policy, "parameters": known}
    assert hash(method) == hash(get_method(name, preset))


def test_a_parameter_reaches_its_scorer_or_allocator():
    assert get_method("snapkv", window_size=8).window_size == 8
    assert get_method("pyramidkv", beta=10).allocator.beta == 10
    assert get_method("streamingllm", num_sinks=1).select(prefill(), 3).head(0, 0).tolist() == [0, 46, 47]
    assert get_method("full").window_size == 0


# Official presets


def test_normalized_is_the_default_and_always_exact():
    for name in METHODS:
        assert get_method(name).preset == "normalized" and get_method(name).exact


def test_official_snapkv_needs_a_cache_per_query_head():
    method = get_method("snapkv", "official", window_size=8)
    assert method.select(prefill(num_kv_heads=4), 20).total == 20 * 12
    with pytest.raises(CokvError, match=r"snapkv: reduce='per_query_head'.*group_mean"):
        method.select(prefill(), 20)
    assert get_method("snapkv", "official", window_size=8, reduce="group_mean").select(prefill(), 20).total == 20 * 6


def test_official_pyramidkv_overspends():
    made = prefill(num_layers=8, seq_len=400)
    selection = get_method("pyramidkv", "official").select(made, 64)
    assert selection.total > 64 * 16
    line = [56 * 2 - 2 - layer * ((56 * 2 - 4) // 7) + 8 for layer in range(8)]
    assert selection.counts.tolist() == [[slots, slots] for slots in line]


def test_official_adakv_rounds_each_head_alone():
    totals = set()
    for seed in range(20):
        made = prefill(num_layers=1, num_heads=7, num_kv_heads=7, seed=seed, spread=3)
        totals.add(get_method("adakv", "official", window_size=8, kernel_size=1).select(made, 21).total)
    assert totals != {21 * 7} and all(abs(total - 21 * 7) <= 10 for total in totals), totals


def test_official_cokv_loses_what_it_floors_and_what_the_prompt_cannot_hold():
    made = prefill(seq_len=30)
    scores = HeadScores(np.array([[0.0, 0.1], [0.2, 0.31], [0.4, 9.0]]))
    official = get_method("cokv", "official", alpha=1).select(made, 20, scores)
    assert official.counts[2, 1] == 30 and official.total < 20 * 6
    assert small("cokv").select(made, 20, scores).total == 20 * 6
    with pytest.raises(CokvError, match="alpha is 20, but the model has 6 KV heads"):
        get_method("cokv", "official").select(made, 20, scores)
