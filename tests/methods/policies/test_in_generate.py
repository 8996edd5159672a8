"""Every policy inside model.generate, beside padding, is the policy on a filled cache; and so it is on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compression import SelectEachLayer
from cokv.cache.policies.base import Policy
from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldestWhereEvicted
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import PrefillLayer, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.types import Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN, NEW, PADDING = 40, 14, 5
# Each with two layers of full attention; the second has two more, with a sliding window, in between.
MODELS: dict[str, dict[str, int]] = {"llama": {"num_hidden_layers": 2}, "qwen3-hybrid": {}}
POLICIES: list[Policy] = [
    Compensate(2),
    EvictOldestWhereEvicted(None, 2),
    Quantize(((2, 4), (8, 16)), 4, 6),
    PruneChannels(0.4, 16, 6),
    Recall(16, 4),
    H2OEviction(20),
    ScissorhandsEviction(20, 16, 3),
    TOVAEviction(20),
    CakeEviction(20, 8),
]


def kept(seq_len: int) -> torch.Tensor:
    return torch.cat([torch.arange(2), torch.arange(seq_len - 18, seq_len)])


def select(layer: PrefillLayer) -> list[torch.Tensor]:
    return [kept(layer.keys.shape[1])] * layer.keys.shape[0]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("family", list(MODELS))
def test_it_is_that_of_a_filled_cache(make_model: MakeModel, prompt: Prompt, policy: Policy, family: str) -> None:
    model = make_model(family, **MODELS[family])
    prompts = [prompt(SEQ_LEN), prompt(SEQ_LEN + PADDING, seed=4)]
    ids = torch.stack([torch.cat([torch.zeros(PADDING, dtype=torch.long), prompts[0]]), prompts[1]])
    cache = RaggedCache(model.config, SelectEachLayer(select, 17, policy))
    settings = {"attention_mask": (ids != 0).long(), "max_new_tokens": NEW, "do_sample": False}
    with ragged_attention(model):
        got = model.generate(ids, past_key_values=cache, **settings)[:, SEQ_LEN + PADDING :]
    alone = []
    for one in prompts:
        prefilled = prefill(model, one, 17, getattr(policy, "observers", ()))
        selection = Selection.from_heads([[kept(len(one))] * 2] * 2, len(one))
        alone += decode(model, prefilled, [Row(selection, policy)], Stop(NEW))
    assert got.tolist() == [answer.tokens for answer in alone]
    for held, answer in zip(cache.held(), alone, strict=True):
        grown = isinstance(policy, Quantize | PruneChannels | Recall)
        assert held.slots == answer.kept_tokens if not grown else held.slots > 0
    cache.reset()
    assert cache.stored_tokens == 0 and cache.storage_bytes == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("family", list(MODELS))
def test_on_cuda_it_is_that_on_the_cpu(fresh_model: MakeModel, prompt: Prompt, policy: Policy, family: str) -> None:
    model, ids = fresh_model(family, **MODELS[family]), prompt(SEQ_LEN)
    selection = Selection.from_heads([[kept(SEQ_LEN)] * 2] * 2, SEQ_LEN)
    answers = []
    for device in ("cpu", "cuda"):
        model = model.to(device)
        prefilled = prefill(model, ids, 17, getattr(policy, "observers", ()))
        answers += decode(model, prefilled, [Row(selection, policy)], Stop(NEW))
    if isinstance(policy, Recall):  # on the way to a GPU pages pass a buffer, one page per head
        assert answers[1].host_bytes - answers[0].host_bytes == 4 * policy.page * prefilled.token_bytes
    assert answers[0] == replace(answers[1], host_bytes=answers[0].host_bytes)
