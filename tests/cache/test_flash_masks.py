"""A flash attention gets masks [rows, tokens], or none: an implementation with such masks stands in for it here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

import cokv

NAME = "flash_stand_in"


def attend(module: Any, query: Any, key: Any, value: Any, mask: torch.Tensor | None, **kwargs: Any) -> Any:
    """Causal, over the tokens that the mask [rows, n] does not call padding."""
    t, n = query.shape[2], key.shape[2]
    causal = torch.ones(t, n, dtype=torch.bool).tril(n - t)[None, None]
    if mask is not None:
        assert mask.ndim == 2, "what a flash attention gets"
        causal = causal & mask[:, None, None, -n:].bool()
        causal = causal | torch.eye(n, dtype=torch.bool)[n - t :]  # padding attends itself, so that there is no NaN
    return sdpa_attention_forward(module, query, key, value, causal, **kwargs)


@pytest.fixture
def model(fresh_model: Callable[..., PreTrainedModel]) -> Iterator[PreTrainedModel]:
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["flash_attention_2"])
    model = fresh_model()
    model.config._attn_implementation = NAME
    yield model
    cokv.detach(model)
    assert model.config._attn_implementation == NAME
    for interface in (AttentionInterface, AttentionMaskInterface):
        for name in (NAME, f"cokv_{NAME}"):
            interface._global_mapping.pop(name, None)


@pytest.mark.parametrize("padding", [0, 7])
def test_padded_rows_are_answered_as_by_the_models_own_cache(model: PreTrainedModel, prompt: Any, padding: int) -> None:
    rows = torch.stack([prompt(40, seed=1), torch.cat([torch.zeros(padding, dtype=torch.int64), prompt(40 - padding)])])
    mask = torch.ones_like(rows)
    mask[1, :padding] = 0
    settings = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    own = model.generate(rows, **settings)
    cache = cokv.compress(model, "full")
    assert torch.equal(model.generate(rows, past_key_values=cache, **settings), own)
    small = cokv.compress(model, "snapkv", kv_budget=20, window_size=8)
    compressed = model.generate(rows, past_key_values=small, **settings)
    assert small.stored_tokens == 2 * 3 * 2 * (20 + 11)
    alone = cokv.compress(model, "snapkv", kv_budget=20, window_size=8)
    row = model.generate(rows[1:, padding:], past_key_values=alone, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert row[0, -12:].tolist() == compressed[1, -12:].tolist()
