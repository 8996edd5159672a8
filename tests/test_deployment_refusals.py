"""What `cokv.compress` and its caches refuse: in one line, and before anything is read where it is known before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration
from transformers.cache_utils import DynamicCache

import cokv
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import CokvError, HeadScores, Infeasible

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SCORES = HeadScores(np.arange(1, 7.0).reshape(3, 2))
CURVES = RatioCurves(np.linspace(0.01, 0.99, 99)[:, None, None].repeat(3, 1).repeat(2, 2))


def refusal(call: Callable[[], Any], kind: type[CokvError] = CokvError) -> str:
    with pytest.raises(CokvError) as caught:
        call()
    assert type(caught.value) is kind, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


def generate(model: PreTrainedModel, ids: torch.Tensor, cache: Any, new: int = 4, **arguments: Any) -> list[int]:
    settings: dict[str, Any] = {"attention_mask": torch.ones_like(ids)[None], "do_sample": False, **arguments}
    return model.generate(ids[None], past_key_values=cache, max_new_tokens=new, **settings)[0, len(ids) :].tolist()


# ---- by compress itself: nothing has been read, and the model is as it was


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("snapkv", {"kv_budget": 40}, "snapkv: kv_budget 40 is below 64, twice the window of 32"),
        ("snapkv", {"kv_budget": 15, "window_size": 8}, "snapkv: kv_budget 15 is below 16"),
        ("streamingllm", {"kv_budget": 4}, "streamingllm: kv_budget 4 leaves no slot"),
        ("duoattention", {"kv_budget": 319, "profile": SCORES}, "need at least 321 KV slots per head on any prompt"),
        (
            "razorattention",
            {"kv_budget": 40, "profile": SCORES, "retrieval_share": 0.99},
            "razorattention: 6 whole heads",
        ),
        ("arkvale", {"kv_budget": 127}, "arkvale: 127 slots per head in pages of 32; expected at least 128"),
        ("scissorhands", {"kv_budget": 10}, "scissorhands: "),
        ("tova", {"kv_budget": 0}, None),
    ],
)
def test_a_budget_that_cannot_be_met_is_infeasible(
    fresh_model: MakeModel, name: str, arguments: dict[str, Any], words: str | None
) -> None:
    model = fresh_model()
    kind = CokvError if words is None else Infeasible  # 0 is no budget at all
    message = refusal(lambda: cokv.compress(model, name, **arguments), kind)
    assert (words or "tova: kv_budget is 0, expected a positive whole number") in message


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("snapkv", {}, "snapkv: needs kv_budget"),
        *(
            (("snapkv", {"kv_budget": bad}, "expected a positive whole number"))
            for bad in (0, -3, 16.5, True, "0.2", "101%")
        ),
        ("cokv", {"kv_budget": 64}, "cokv: needs sliced Shapley values and got none"),
        ("lukv", {"kv_budget": 64}, "lukv: needs keep-ratio curves and got none"),
        ("kivi_by_score", {}, "kivi_by_score: needs sliced Shapley values and got none"),
        (
            "headkv_r",
            {"kv_budget": 64, "profile": HeadScores(SCORES.values, {"kind": "sliced Shapley value"})},
            "headkv_r: needs retrieval scores and got a profile of kind 'sliced Shapley value'",
        ),
        ("cokv", {"kv_budget": 64, "profile": HeadScores(np.ones((2, 2)))}, "cokv: head scores have shape [2, 2]"),
        ("cokv", {"kv_budget": 64, "profile": CURVES}, "cokv: CoKV allocates by head scores and got RatioCurves"),
        ("lukv", {"kv_budget": 64, "profile": SCORES}, "lukv: LU-KV allocates by curves of keep ratios"),
        ("cokv", {"kv_budget": 64, "profile": SCORES, "preset": "official"}, "cokv: alpha is 20, but the model has 6"),
        ("fastgen", {"kv_budget": 64}, "fastgen: needs to know what tokens say; give tokenizer="),
        ("kvzip", {"kv_budget": 64}, "kvzip: needs to know what tokens say; give tokenizer="),
        ("snap-kv", {"kv_budget": 64}, "unknown method 'snap-kv'; did you mean snapkv"),
        (
            "snapkv",
            {"kv_budget": 64, "windowsize": 8},
            "snapkv: unknown parameter 'windowsize'; did you mean window_size",
        ),
        ("snapkv", {"kv_budget": 64, "preset": "offical"}, "snapkv: unknown preset 'offical'; did you mean official"),
        ("no_such_module_here:Thing", {"kv_budget": 64}, "no module 'no_such_module_here'"),
    ],
    ids=str,
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_read(
    fresh_model: MakeModel, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, Any], words: str
) -> None:
    model = fresh_model()
    monkeypatch.setattr(type(model.model), "forward", lambda *args, **kwargs: pytest.fail("the model was run"))
    assert words in refusal(lambda: cokv.compress(model, name, **arguments))


@pytest.mark.parametrize("name", ["snapkv", "cokv", "fastgen", "arkvale"])
def test_a_refusal_leaves_the_model_as_it_was(fresh_model: MakeModel, name: str) -> None:
    model = fresh_model()
    refusal(lambda: cokv.compress(model, name, kv_budget=9, profile=HeadScores(np.ones((2, 2)))), object_kind(name))
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def object_kind(name: str) -> type[CokvError]:
    return Infeasible if name in ("snapkv", "arkvale") else CokvError


def test_what_is_no_model_is_refused(fresh_model: MakeModel) -> None:
    assert "got a str, expected a transformers model" in refusal(lambda: cokv.compress("llama", "full"))
    inner = fresh_model().lm_head
    assert "got a Linear, expected a transformers model" in refusal(lambda: cokv.compress(inner, "full"))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    assert "T5ForConditionalGeneration is an encoder-decoder model" in refusal(lambda: cokv.compress(t5, "full"))


def test_a_model_whose_attention_cannot_be_reached_is_refused_by_name(
    fresh_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh_model("qwen3")
    monkeypatch.setattr(type(model.model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    message = refusal(lambda: cokv.compress(model, "full"))
    assert message.startswith("Qwen3ForCausalLM does not compute its attention through")


# ---- by the cache, when it is used


def test_methods_of_query_heads_need_models_without_groups(
    make_model: MakeModel, prompt: Prompt, small_method: Any
) -> None:
    model = make_model()
    message = refusal(
        lambda: generate(model, prompt(100), cokv.compress(model, small_method("snapkv", "official"), 40))
    )
    assert "snapkv: reduce='per_query_head'" in message and "use reduce='group_mean'" in message


def test_gradients_and_training_are_refused(fresh_model: MakeModel, prompt: Prompt, small_method: Any) -> None:
    model, ids = fresh_model(attention_dropout=0.5), prompt(60)

    def filled() -> cokv.CompressedCache:
        cache = cokv.compress(model, small_method("snapkv"), 40)
        with torch.no_grad():
            model(ids[None], past_key_values=cache)
        return cache

    cache = filled()
    model.train()
    with torch.no_grad():
        message = refusal(lambda: model(ids[None, :1], past_key_values=cache))
    assert message.startswith("LlamaModel, layer 0: is asked for dropout") and "call model.eval()" in message
    model.eval().requires_grad_(True)
    cache = filled()
    message = refusal(lambda: model(ids[None, :1], past_key_values=cache))
    assert message.startswith("LlamaModel, layer 0: is run with gradients") and "use no_grad" in message
    with torch.no_grad():
        model(ids[None, :1], past_key_values=filled())


def test_layers_made_ahead_of_time_change_nothing(make_model: MakeModel, prompt: Prompt, small_method: Any) -> None:
    model, ids = make_model(), prompt(60)
    expected = generate(model, ids, cokv.compress(model, small_method("snapkv"), 40), 12)
    cache = cokv.compress(model, small_method("snapkv"), 40)
    cache.early_initialization(1, 2, 16, torch.float32, torch.device("cpu"))
    assert cache.stored_tokens == cache.storage_bytes == cache.memory().tokens_read == 0
    assert generate(model, ids, cache, 12) == expected


def test_offloading_is_refused(make_model: MakeModel, prompt: Prompt, small_method: Any) -> None:
    model = make_model()
    cache = cokv.compress(model, small_method("snapkv"), 40)
    generate(model, prompt(60), cache)
    for layer in cache.layers:
        assert "cannot be offloaded" in refusal(layer.offload)


def test_a_cache_takes_one_prompt(make_model: MakeModel, prompt: Prompt, small_method: Any) -> None:
    model = make_model()
    cache = cokv.compress(model, small_method("snapkv"), 40)
    for wrong in (torch.tensor([[1]]), torch.ones(1, 2, 3, dtype=torch.long), torch.tensor([4])):
        assert "expected [rows, 2 or more tokens]" in refusal(lambda: cache.prefill(wrong))  # noqa: B023
    cache.prefill(prompt(60))
    assert "call cache.reset() first" in refusal(lambda: cache.prefill(prompt(60)))
    cache.reset()
    cache.prefill(prompt(60)[None].repeat(2, 1))
    assert len(cache.held()) == 2


@pytest.mark.parametrize("name", ["cake", "snapkv"])
def test_a_prompt_that_fails_leaves_nothing_behind(
    make_model: MakeModel, prompt: Prompt, small_method: Any, name: str
) -> None:
    """A share of a short prompt is too little; the same cache then takes a long one."""
    model, method = make_model(), small_method(name)
    cache = cokv.compress(model, method, "20%")
    refusal(lambda: generate(model, prompt(40), cache), Infeasible)
    cache.reset()
    ids = prompt(110, seed=1)
    assert generate(model, ids, cache, 12) == generate(model, ids, cokv.compress(model, method, "20%"), 12)
    assert cache.stored_tokens > 0


def test_a_pickled_cache_that_has_read_nothing_says_what_it_lacks(
    make_model: MakeModel, prompt: Prompt, small_method: Any
) -> None:
    import pickle

    model, ids = make_model(), prompt(60)
    cache = pickle.loads(pickle.dumps(cokv.compress(model, small_method("snapkv"), 40)))
    assert "has lost its model" in refusal(lambda: cache.prefill(ids))
    expected = generate(model, ids, cokv.compress(model, small_method("snapkv"), 40))
    assert generate(model, ids, cache) == expected, "what needs no model does without"
    assert generate(model, ids, DynamicCache(config=model.config)) == generate(model, ids, None)
