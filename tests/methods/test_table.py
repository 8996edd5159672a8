"""The table of methods: rows, parameters and presets, and what is said of wrong names, budgets and profiles."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.methods.method import NORMALIZED
from cokv.methods.registry import METHODS, describe_methods, get_method
from cokv.types import CokvError, HeadScores

PAIRS = [(name, preset) for name, method in METHODS.items() for preset in (NORMALIZED, *method.presets)]
HEADS = [(4, 4), (4, 2), (4, 1)]  # MHA, GQA, MQA


# Errors


@pytest.mark.parametrize("bad", [0, -3, 2.5, True, None, "0.2", "120%"])
def test_a_budget_is_a_positive_whole_number(prefill, small, bad):
    with pytest.raises(CokvError, match=r"snapkv: kv_budget is .* expected a positive whole number"):
        small("snapkv").select(prefill(), bad)


@pytest.mark.parametrize("name", ["snapkv", "pyramidkv", "adakv", "cokv"])
@pytest.mark.parametrize("kv_budget", [1, 7, 8, 15])
def test_a_window_above_half_the_budget_is_an_error(prefill, small, profile, name, kv_budget):
    with pytest.raises(CokvError, match=rf"{name}: kv_budget {kv_budget} is below 16"):
        small(name).select(prefill(), kv_budget, profile())


def test_a_budget_of_sinks_alone_is_an_error(prefill):
    with pytest.raises(CokvError, match="streamingllm: kv_budget 4 leaves no slot"):
        get_method("streamingllm").select(prefill(), 4)


def test_cokv_needs_scores_of_this_model_even_where_nothing_is_dropped(prefill, small, profile):
    for kv_budget in (20, 1000):
        with pytest.raises(CokvError, match="cokv: needs sliced Shapley values and got none"):
            small("cokv").select(prefill(), kv_budget)
        with pytest.raises(CokvError, match=r"cokv: .*\[3, 2\]"):
            small("cokv").select(prefill(num_kv_heads=4), kv_budget, profile())


def test_nan_in_a_prefill_is_an_error_that_names_the_layer(prefill, small):
    prefilled = prefill()
    prefilled.layers[1].keys[0, 3, 0] = torch.nan
    with pytest.raises(CokvError, match="snapkv: token scores of layer 1 hold NaN"):
        small("snapkv").select(prefilled, 20)


def test_too_few_window_queries_name_the_method(prefill, small):
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
    assert [(row["name"], row["preset"].removesuffix(" (ours)")) for row in rows] == PAIRS
    assert {(r["name"], r["preset"]) for r in rows if r["preset"].endswith("(ours)")} == {
        ("snapkv", "unpooled (ours)"),
        ("h2o", "pooled (ours)"),
        ("tova", "pooled (ours)"),
        ("kivi_by_score", "normalized (ours)"),
        ("kivi_at_random", "normalized (ours)"),
        ("snapkv_kivi4", "normalized (ours)"),
    }
    without = {"parameters", "set by"}  # of a method that has none
    for row in rows:
        assert all(isinstance(value, str) and value for key, value in row.items() if key not in without), row
        assert row["paper"].startswith(("https://arxiv.org/abs/", "https://openreview.net/")) or row["name"] == "full"
    assert {name for name, method in METHODS.items() if method.needs_profile} == PROFILED
    assert all(METHODS[name].profile in METHODS[name].needs for name in PROFILED)
    assert {name for name, method in METHODS.items() if type(method.policy) is EvictOldest} == {"streamingllm"}


def test_the_long_table_says_where_methods_coincide():
    notes = {row["name"]: row["note"] for row in describe_methods() if row["preset"].startswith("normalized")}
    assert "; the tokens of snapkv at the same window, where the prompt is shorter than twice" in notes["pyramidkv"]
    for row in METHODS.values():
        assert all(other in METHODS and row.name not in METHODS[other].coincides for other in row.coincides)


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


def test_a_parameter_reaches_its_scorer_or_allocator(prefill):
    assert get_method("snapkv", window_size=8).window_size == 8
    assert get_method("pyramidkv", beta=10).allocator.beta == 10
    assert get_method("streamingllm", num_sinks=1).select(prefill(), 3).head(0, 0).tolist() == [0, 46, 47]
    assert get_method("full").window_size == 0


# Official presets


def test_normalized_is_the_default_and_always_exact():
    for name in METHODS:
        assert get_method(name).preset == "normalized" and get_method(name).exact


def test_official_snapkv_needs_a_cache_per_query_head(prefill):
    method = get_method("snapkv", "official", window_size=8)
    assert method.select(prefill(num_kv_heads=4), 20).total == 20 * 12
    with pytest.raises(CokvError, match=r"snapkv: reduce='per_query_head'.*group_mean"):
        method.select(prefill(), 20)
    assert get_method("snapkv", "official", window_size=8, reduce="group_mean").select(prefill(), 20).total == 20 * 6


def test_official_pyramidkv_overspends(prefill):
    prefilled = prefill(num_layers=8, seq_len=400)
    selection = get_method("pyramidkv", "official").select(prefilled, 64)
    assert selection.total > 64 * 16
    line = [56 * 2 - 2 - layer * ((56 * 2 - 4) // 7) + 8 for layer in range(8)]
    assert selection.counts.tolist() == [[slots, slots] for slots in line]


def test_official_adakv_rounds_each_head_alone(prefill):
    totals = set()
    for seed in range(20):
        prefilled = prefill(num_layers=1, num_heads=7, num_kv_heads=7, seed=seed, spread=3)
        totals.add(get_method("adakv", "official", window_size=8, kernel_size=1).select(prefilled, 21).total)
    assert totals != {21 * 7} and all(abs(total - 21 * 7) <= 10 for total in totals), totals


def test_official_cokv_loses_what_it_floors_and_what_the_prompt_cannot_hold(prefill, small):
    prefilled = prefill(seq_len=30)
    scores = HeadScores(np.array([[0.0, 0.1], [0.2, 0.31], [0.4, 9.0]]))
    official = get_method("cokv", "official", alpha=1).select(prefilled, 20, scores)
    assert official.counts[2, 1] == 30 and official.total < 20 * 6
    assert small("cokv").select(prefilled, 20, scores).total == 20 * 6
    with pytest.raises(CokvError, match="alpha is 20, but the model has 6 KV heads"):
        get_method("cokv", "official").select(prefilled, 20, scores)
