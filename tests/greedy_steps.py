"""Greedy steps on a cache, as the tests of caches take them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import Prefill

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "qwen3-hybrid"]
NEW = 64


def step(model: PreTrainedModel, cache: Cache, ids: torch.Tensor, position: int) -> torch.Tensor:
    """Logits [rows, t, vocab_size] of ids [rows, t], which start at `position`."""
    positions = torch.arange(position, position + ids.shape[1]).expand(ids.shape[0], -1)
    with ragged_attention(model), torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, past_key_values=cache, position_ids=positions).logits
    return logits


def generated(model: PreTrainedModel, ids: torch.Tensor, new: int = NEW, **settings: Any) -> torch.Tensor:
    return model.generate(ids[None], max_new_tokens=new, do_sample=False, **settings)[0, len(ids) :]


def greedy(model: PreTrainedModel, prefilled: Prefill, cache: RaggedCache, new: int = NEW) -> torch.Tensor:
    tokens = [prefilled.first_logits.argmax()]
    for i in range(new - 1):
        tokens.append(step(model, cache, tokens[-1].view(1, 1), prefilled.seq_len + i)[0, -1].argmax())
    return torch.stack(tokens)
