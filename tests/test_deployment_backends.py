"""Whoever computes attention, `model.generate` on a compressed cache answers as with the slow reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import cokv
from cokv.cache.attention import choose

KV_BUDGET, SEQ_LEN, NEW = 40, 90, 16
ON_CPU = [
    name
    for name in (choose.AUTO, *choose.MODULES)
    if name == choose.AUTO
    or (choose.missing(name) is None and choose.get_backend(name).refusal("cpu", torch.float32, 16) is None)
]


@pytest.mark.parametrize("name", cokv.METHODS)
def test_every_method_answers_by_every_backend_as_by_the_reference(
    name: str,
    make_model: Callable[..., Any],
    prompt: Callable[..., torch.Tensor],
    small_method: Any,
    profile_of: Any,
    words: Any,
) -> None:
    model, ids, method = make_model(), prompt(SEQ_LEN)[None], small_method(name)
    profile, budget = profile_of(method), KV_BUDGET if method.takes_budget else None

    def answer(attention: str) -> tuple[list[int], torch.Tensor]:
        cache = cokv.compress(model, method, budget, profile, tokenizer=words, attention=attention)
        if method.reads_prompt_again:
            cache.prefill(ids)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert cache.memory().tokens_held < cache.memory().tokens_read or not method.takes_budget
        return out.sequences[0, SEQ_LEN:].tolist(), torch.cat(out.logits)

    tokens, logits = answer("reference")
    for attention in ON_CPU:
        got, got_logits = answer(attention)
        assert got == tokens, attention
        torch.testing.assert_close(got_logits, logits, rtol=0, atol=1e-3, msg=attention)
