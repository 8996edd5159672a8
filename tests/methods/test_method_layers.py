"""What a method refuses before a prompt is read, layer by layer and of a whole prefill alike, and what while one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cokv.cache.prefill import prefill
from cokv.deployment.compress import compress
from cokv.methods.registry import METHODS, get_method
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import CokvError, HeadScores, Infeasible

SETTINGS = {"window_size": 8, "kernel_size": 3}
SIX = HeadScores(np.arange(6.0).reshape(3, 2))
SHAPLEY = HeadScores(np.arange(6.0).reshape(3, 2), {"kind": "sliced Shapley value"})
CURVES = RatioCurves(np.linspace(0.01, 0.99, 99)[:, None, None] ** np.array([[1.0, 1.5], [0.7, 1.0], [1.2, 0.8]]))
SHAPE = (3, 2)  # num_layers, num_kv_heads


def both(method: Any, prefilled: Any, kv_budget: Any, profile: Any = None) -> list[tuple[type, str]]:
    """What `select` and `check` say against the same arguments."""
    outcomes = []
    paths = (lambda: method.select(prefilled, kv_budget, profile), lambda: method.check(kv_budget, *SHAPE, profile))
    for call in paths:
        with pytest.raises(CokvError) as caught:
            call()
        outcomes.append((type(caught.value), str(caught.value)))
    return outcomes


@pytest.mark.parametrize("bad", [0, -3, 16.5, 64.0, True, None, "64 slots", "0%", 0.2])
def test_a_budget_is_a_positive_whole_number_or_a_share_on_either_path(make_model, prompt, bad):
    prefilled = prefill(make_model(), prompt(120), 8)
    whole, early = both(get_method("snapkv", **SETTINGS), prefilled, bad)
    assert early == whole and early[1].startswith(f"snapkv: kv_budget is {bad!r}, expected a positive whole number")
    assert early[0] is CokvError, "no budget at all is not one that cannot be met"
    get_method("full").check(bad, *SHAPE)
    assert get_method("full").select_layer(prefilled.layers[0], 0, 3, bad)[1].tolist() == list(range(120))


@pytest.mark.parametrize("kv_budget", [1, 15])
def test_a_budget_that_no_longer_prompt_fits_is_refused_before_one_is_read(make_model, prompt, kv_budget):
    prefilled = prefill(make_model(), prompt(120), 8)
    whole, early = both(get_method("snapkv", **SETTINGS), prefilled, kv_budget)
    assert early == whole and early[0] is Infeasible and "is below 16, twice the window of 8" in early[1]


@pytest.mark.parametrize("share", ["1%", "12.5%", "100%"])
def test_a_share_can_only_be_judged_with_the_prompt(make_model, prompt, share):
    method, prefilled = get_method("snapkv", **SETTINGS), prefill(make_model(), prompt(120), 8)
    method.check(share, *SHAPE)
    if share == "100%":
        assert method.select(prefilled, share).mask().all()
        return
    with pytest.raises(Infeasible, match=r"snapkv: kv_budget \d+ is below 16"):
        method.select(prefilled, share)


@pytest.mark.parametrize(
    ("name", "profile", "words"),
    [
        ("cokv", None, "cokv: needs sliced Shapley values and got none"),
        ("cokv", HeadScores(np.ones((3, 2)), {"kind": "HeadKV-R score, mean over needles"}), "of kind 'HeadKV-R"),
        ("cokv", HeadScores(np.ones((2, 2))), r"cokv: head scores have shape \[2, 2\], the model needs"),
        ("cokv", np.ones((3, 2)), "cokv: CoKV allocates by head scores and got ndarray"),
        ("cokv", CURVES, "cokv: CoKV allocates by head scores and got RatioCurves"),
        ("headkv_r", SHAPLEY, "headkv_r: needs retrieval scores and got a profile of kind 'sliced Shapley value'"),
        ("headkv_r2", HeadScores(-SIX.values), "headkv_r2: HeadKV needs scores of 0 or more"),
        ("razorattention", "razor.safetensors", "RetrievalStreaming allocates by head scores and got str"),
        (
            "lukv",
            HeadScores(np.arange(6.0).reshape(3, 2)),
            "lukv: LU-KV allocates by curves of keep ratios and got HeadScores",
        ),
        ("lukv", RatioCurves(CURVES.values[:, :2]), "lukv: curves of 2 x 2 heads"),
        ("lukv", None, "lukv: needs keep-ratio curves and got none"),
    ],
)
def test_a_profile_that_select_refuses_is_refused_before_a_prompt_is_read(make_model, prompt, name, profile, words):
    fits = {"local": 8, "retrieval_share": 0.1} if name == "razorattention" else SETTINGS
    prefilled = prefill(make_model(), prompt(120), 8)
    whole, early = both(get_method(name, **fits), prefilled, 40, profile)
    assert early == whole
    with pytest.raises(CokvError, match=words):
        raise CokvError(early[1])


def test_what_the_allocator_cannot_meet_is_refused_before_a_prompt_is_read():
    scores = HeadScores(np.arange(6.0).reshape(3, 2))
    for slots in (319, 320):  # without one whole head it would be StreamingLLM
        with pytest.raises(Infeasible, match=r"duoattention: .*64 sinks and 256 newest .*need at least 321 KV slots"):
            get_method("duoattention").check(slots, *SHAPE, scores)
    get_method("duoattention").check(321, *SHAPE, scores)
    with pytest.raises(CokvError, match="cokv: alpha is 20, but the model has 6 KV heads"):
        get_method("cokv", "official").check(64, *SHAPE, scores)
    with pytest.raises(Infeasible, match="razorattention: 6 whole heads"):
        get_method("razorattention", retrieval_share=0.99).check(40, *SHAPE, scores)


@pytest.mark.parametrize(
    ("name", "kv_budget", "words"),
    [
        ("arkvale", 127, "arkvale: 127 slots per head in pages of 32; expected at least 128"),
        ("scissorhands", 10, "scissorhands: "),
        ("streamingllm", 4, "streamingllm: kv_budget 4 leaves no slot"),
        ("h2o", 1, "h2o: "),
    ],
)
def test_what_the_policy_cannot_meet_is_refused_before_a_prompt_is_read(name, kv_budget, words):
    with pytest.raises(Infeasible, match=words):
        get_method(name).check(kv_budget, *SHAPE)
    get_method(name).check(kv_budget + 1, *SHAPE)


@pytest.mark.parametrize("name", ["snapkv", "adakv", "cokv", "knorm", "cake"])
def test_nan_is_refused_inside_generate_as_it_is_on_a_prefill(fresh_model, prompt, name):
    method, model = get_method(name, **({} if name == "knorm" else SETTINGS)), fresh_model()
    model.model.layers[1].self_attn.k_proj.weight.fill_(torch.nan)
    cache = compress(model, method, 40, SHAPLEY if method.needs_profile else None)
    with pytest.raises(CokvError, match=f"{name}: token scores of layer 1 hold NaN"):
        model.generate(prompt(60)[None], max_new_tokens=2, do_sample=False, past_key_values=cache)


def test_nan_in_a_second_stage_is_refused_too(make_model, prompt):
    method = get_method("criticalkv", **SETTINGS)
    prefilled = prefill(make_model(), prompt(120), 8, method.observers)
    (observer,) = method.observers
    (norms,) = prefilled.layers[2].observed[observer]
    norms[0, 5] = torch.nan
    for select in (lambda: method.select(prefilled, 40), lambda: method.select_layer(prefilled.layers[2], 2, 3, 40)):
        with pytest.raises(CokvError, match="criticalkv: token scores of layer 2 hold NaN"):
            select()


def test_too_few_window_queries_name_the_method(make_model, prompt):
    prefilled = prefill(make_model(), prompt(120), 4)
    with pytest.raises(CokvError, match="snapkv: the prefill holds 4 window queries"):
        get_method("snapkv", **SETTINGS).select_layer(prefilled.layers[0], 0, 3, 40)


def test_a_cache_made_for_another_model_is_refused(make_model, prompt):
    """Its layers, heads or channels are others: nothing is then compressed."""
    cache = compress(make_model(), "knorm", 40)
    other = make_model(heads="mha")
    compress(other, "knorm", 40)
    with pytest.raises(CokvError, match="keys of 4 heads with 16 channels, expected 2 with 16"):
        other.generate(prompt(60)[None], max_new_tokens=2, do_sample=False, past_key_values=cache)


def test_a_prompt_no_longer_than_the_budget_is_kept_whole(make_model, prompt):
    layer = prefill(make_model(), prompt(40), 8).layers[0]
    for kv_budget in (40, "100%"):
        for kept in get_method("cokv", **SETTINGS).select_layer(layer, 0, 3, kv_budget, SHAPLEY):
            assert kept.tolist() == list(range(40))


@pytest.mark.parametrize("kv_budget", [np.int64(40), "34%"])
@pytest.mark.parametrize(("name", "profile"), [("lukv", CURVES), ("cokv", SHAPLEY), ("adakv", None)])
def test_a_layer_alone_keeps_what_select_keeps(make_model, prompt, name, profile, kv_budget):
    prefilled, method = prefill(make_model(), prompt(120), 8), get_method(name, **SETTINGS)
    whole = method.select(prefilled, kv_budget, profile)
    assert whole.total == 6 * 40
    for index, layer in enumerate(prefilled.layers):
        alone = method.select_layer(layer, index, 3, kv_budget, profile)
        assert [kept.tolist() for kept in alone] == [whole.head(index, h).tolist() for h in range(2)]


def test_methods_that_share_slots_between_layers_by_what_they_read_need_them_all():
    assert {name for name, method in METHODS.items() if not method.layer_local} == {"cake", "fastgen", "kvzip"}


# Scored and measured once


@pytest.mark.parametrize("name", ["cake", "fastgen"])
def test_a_prompt_is_scored_and_measured_once_for_all_budgets(make_model, prompt, monkeypatch, name):
    method = get_method(name, **({"least_threshold": 0} if name == "fastgen" else {}))
    kind, calls = type(method.scorer), {"scores": 0, "measure": 0}
    for what in calls:
        monkeypatch.setattr(kind, what, counting(getattr(kind, what), calls, what))
    prefilled = prefill(make_model(), prompt(200), 32, method.observers, Words())
    alone = [method.select(prefilled, kv_budget) for kv_budget in (64, 80, 100)]
    assert calls == {"scores": 9, "measure": 9}, "without a cache, once per budget"
    calls.update(scores=0, measure=0)
    cache: Any = {}
    assert [method.select(prefilled, kv_budget, score_cache=cache) for kv_budget in (64, 80, 100)] == alone
    assert calls == {"scores": 3, "measure": 3}


def counting(original: Callable[..., Any], calls: dict[str, int], what: str) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls[what] += 1
        return original(*args)

    return counted


class Words:
    """A tokenizer to which id 1 is special and every ninth id a comma."""

    all_special_ids = (1,)

    def decode(self, ids: list[int]) -> str:
        return "," if ids[0] % 9 == 0 else "word"


def test_window_attention_is_made_once_for_cakes_scores_and_once_for_its_measure(make_model, prompt, monkeypatch):
    from cokv.methods.scorers import cake as shifting_attention

    attention_calls, original = [], shifting_attention.window_attention
    monkeypatch.setattr(
        shifting_attention,
        "window_attention",
        lambda layer, window: attention_calls.append(1) or original(layer, window),
    )
    prefilled, cache = prefill(make_model(), prompt(200), 32), {}
    for kv_budget in (64, 80, 100):
        get_method("cake").select(prefilled, kv_budget, score_cache=cache)
    assert len(attention_calls) == 2 * 3


def test_a_measure_is_added_to_scores_that_are_there_and_never_taken_from_another_prompt(make_model, prompt):
    cake, cache = get_method("cake"), {}
    first, second = (prefill(make_model(), prompt(200, seed=seed), 32) for seed in range(2))
    evenly = replace(cake, name="evenly", allocator=get_method("snapkv").allocator)
    assert evenly.select(first, 64, score_cache=cache) == evenly.select(first, 64)
    assert cake.select(first, 64, score_cache=cache) == cake.select(first, 64)
    assert evenly.select(first, 64, score_cache=cache) == evenly.select(first, 64)
    assert cake.select(second, 64, score_cache=cache) == cake.select(second, 64) != cake.select(first, 64)
