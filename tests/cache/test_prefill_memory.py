"""While a prompt is compressed, one layer at a time is dense: beyond what is kept, more layers take no more memory.

Bytes are counted from the storages that operations make (cokv/cache/live_bytes.py): those of K and V, of the model's
own activations and of the scoring, without the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import cokv
from cokv.cache.live_bytes import live_bytes
from cokv.methods.method import Method

MakeModel = Callable[..., PreTrainedModel]
SEQ_LEN, FEW, MANY = 300, 2, 6
DENSE = 2 * 2 * SEQ_LEN * 16 * 4  # bytes of one layer's K and V, of 2 heads of 16 channels in float32
NOTES = 1024  # bytes per layer and row of lengths, starts, flags and an index of pages
READ_ONCE = [name for name, method in cokv.METHODS.items() if not method.reads_prompt_again]


def peak_and_kept(
    model: PreTrainedModel, method: Method, profile: Any, tokenizer: Any, rows: int = 1
) -> tuple[int, int]:
    """Bytes at the highest moment of reading a prompt, and those that the cache holds after it, slack included."""
    ids = torch.randint(1, 97, (rows, SEQ_LEN), generator=torch.Generator().manual_seed(0))
    kv_budget = None if not method.takes_budget else 200 if method.name in ("duoattention", "razorattention") else 100
    cache = cokv.compress(model, method, kv_budget, profile, tokenizer=tokenizer)
    with live_bytes() as held:
        model.generate(ids, past_key_values=cache, max_new_tokens=1, do_sample=False)
    return held.peak, cache.storage_bytes + cache.memory().host_bytes


@pytest.mark.parametrize(
    ("name", "rows"), [*((name, 1) for name in READ_ONCE), *((name, 2) for name in ("snapkv", "adakv", "cake"))]
)
def test_more_layers_take_no_more_memory_than_what_they_keep(
    make_model: MakeModel, small_method: Any, profile_of: Any, words: Any, name: str, rows: int
) -> None:
    method, beyond = small_method(name), []
    for layers in (FEW, MANY):
        model = make_model("llama", "gqa", num_hidden_layers=layers)
        peak, kept = peak_and_kept(model, method, profile_of(method, layers), words, rows)
        beyond.append(peak - kept)
    growth = (beyond[1] - beyond[0]) / (MANY - FEW) / rows
    if method.layer_local:
        assert growth <= NOTES, f"{growth:.0f} bytes more for each layer; a dense layer has {DENSE}"
    else:
        assert 0.2 * DENSE < growth < 1.2 * DENSE, "all layers are dense until the last has been attended"
        assert "all layers at once" in method.needs


@pytest.mark.parametrize(
    ("name", "per_token"),
    [("streamingllm", 0), ("knorm", 0), ("tova", 0), ("snapkv", 2 * 4 * 8), ("adakv", 2 * 4 * 8)],
)
def test_scoring_adds_a_windows_attention_to_what_the_model_takes_anyway(
    make_model: MakeModel, small_method: Any, name: str, per_token: int
) -> None:
    """per_token: float32 numbers, twice those of 4 query heads times a window of 8. Half of the prompt is kept."""
    model = make_model("llama", "gqa", num_hidden_layers=1, intermediate_size=16)
    ids = torch.randint(1, 97, (1, SEQ_LEN), generator=torch.Generator().manual_seed(0))
    with live_bytes() as plain:
        model(ids, use_cache=False, logits_to_keep=1)
    cache = cokv.compress(model, small_method(name), SEQ_LEN // 2)
    with live_bytes() as compressing:
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    assert compressing.peak <= plain.peak + cache.storage_bytes + 4 * per_token * SEQ_LEN + NOTES
