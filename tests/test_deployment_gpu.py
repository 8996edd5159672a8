"""`cokv.compress` on CUDA: every method answers in model.generate as decoding from a prefill there does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import cokv
from cokv.cache.prefill import prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.methods.method import prefill_requirements

NEW = 24


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", sorted(cokv.METHODS))
def test_generate_answers_as_decode_does(
    name: str, fresh_model: Callable[..., PreTrainedModel], prompt: Any, small_method: Any, profile_of: Any, words: Any
) -> None:
    model, ids, method = fresh_model().cuda(), prompt(100), small_method(name)
    budget = 64 if name in ("razorattention", "duoattention") else 40 if method.takes_budget else None
    read = prefill(model, ids, *prefill_requirements([method]), words)
    shape = read.shape.num_layers, read.shape.num_kv_heads
    profile = profile_of(method, *shape)
    row = Row(method.select(read, budget, profile), method.bound_policy(budget, 100, *shape, profile))
    cache = cokv.compress(model, method, budget, profile, tokenizer=words)
    first = "prefill"
    if cache.compression.further_passes:
        cache.prefill(ids)
        first = "compressed"
    expected = decode(model, read, [row], Stop(NEW), first_token=first)[0].tokens
    tokens = model.generate(ids[None].cuda(), past_key_values=cache, max_new_tokens=NEW, do_sample=False)
    assert tokens[0, 100:].tolist() == expected
    assert cache.memory().tokens_held == cache.stored_tokens > 0
