"""A day's use: turns, prompts and steps without number leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import cokv
from cokv.cache.storage.state import state_of

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN = 90
FLAT = ["streamingllm", "h2o", "tova", "scissorhands", "cake", "fastgen", "razorattention"]
KINDS = [*FLAT, "snapkv", "arkvale", "kivi4", "snapkv_think"]


@pytest.fixture
def compressed(small_method: Any, profile_of: Any, words: Any) -> Callable[..., cokv.CompressedCache]:
    def make(model: PreTrainedModel, name: str) -> cokv.CompressedCache:
        method = small_method(name)
        budget = (64 if name == "razorattention" else 40) if method.takes_budget else None
        return cokv.compress(model, method, budget, profile_of(method, 2), tokenizer=words)

    return make


def read(model: PreTrainedModel, cache: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        model(ids[None] if ids.ndim == 1 else ids, past_key_values=cache)


def sizes(value: Any) -> Iterator[int]:
    """Bytes of tensors and lengths of lists, in stores of any nesting."""
    if isinstance(value, torch.Tensor):
        yield value.untyped_storage().nbytes()
    elif isinstance(value, (list, tuple, dict)):
        yield len(value)
        for each in value.values() if isinstance(value, dict) else value:
            yield from sizes(each)
    elif (state := state_of(value)) is not None:
        for name in state.attributes:
            yield from sizes(getattr(value, name))


def kept(cache: cokv.CompressedCache) -> int:
    return sum(sizes([layer.rows for layer in cache.ragged_layers]))


@pytest.mark.parametrize("name", FLAT)
def test_steps_at_a_fixed_budget_need_no_more_memory(
    make_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    model = make_model(num_hidden_layers=2)
    cache = compressed(model, name)
    read(model, cache, prompt(SEQ_LEN))
    for tokens in prompt(60, seed=1).split(1):
        read(model, cache, tokens)
    before = kept(cache)
    for tokens in prompt(120, seed=2).split(1):
        read(model, cache, tokens)
    retrieval = name in ("fastgen", "razorattention")  # whose heads that kept the whole prompt grow
    assert kept(cache) == before or (retrieval and cache.memory().tokens_held > 2 * 2 * 64)


@pytest.mark.parametrize("name", KINDS)
def test_turns_and_prompts_leave_nothing_behind(
    make_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    model = make_model(num_hidden_layers=2)
    cache = compressed(model, name)
    after = []
    for _ in range(4):
        read(model, cache, prompt(SEQ_LEN))
        for seed in range(3):
            read(model, cache, prompt(20, seed))
        cache.batch_repeat_interleave(3)
        for tokens in prompt(30, seed=5).split(1):
            read(model, cache, tokens.expand(3, 1))
            cache.reorder_cache(torch.tensor([1, 0, 0]))
        after.append((kept(cache), cache.memory()))
        cache.reset()
    assert len({*after}) == 1, after


@pytest.mark.parametrize("name", KINDS)
def test_a_cache_that_nobody_has_any_more_is_gone_at_once(
    make_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    """Not only when Python looks for cycles: on a GPU it does not know how much they hold."""
    model = make_model(num_hidden_layers=2)
    cache = compressed(model, name)
    gc.collect()
    gc.disable()
    try:
        model.generate(
            prompt(SEQ_LEN)[None], attention_mask=torch.ones(1, SEQ_LEN, dtype=torch.long), past_key_values=cache,
            max_new_tokens=3, do_sample=False,
        )  # fmt: skip
        watched = [weakref.ref(layer.rows) for layer in cache.ragged_layers]
        assert all(ref() is not None for ref in watched)
        del cache
        assert [ref() for ref in watched] == [None, None]
    finally:
        gc.enable()
