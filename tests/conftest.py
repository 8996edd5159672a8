"""Small random models with varied answers, and an independent reference: dense attention masked per (layer, KV head).

A model's weights are drawn widely (initializer_range 0.15), else greedy decoding of a random model repeats one token
and any two ways to decode would agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.masking_utils import AttentionMaskInterface

FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "qwen3-hybrid": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {
            "num_hidden_layers": 4,
            "sliding_window": 16,
            "use_sliding_window": True,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "mistral-sliding": (MistralConfig, MistralForCausalLM, {"sliding_window": 16}),
}
KV_HEADS = {"mha": 4, "gqa": 2, "mqa": 1}

MakeModel = Callable[..., PreTrainedModel]


def build(family: str = "llama", heads: str = "gqa", seed: int = 0, **changes: Any) -> PreTrainedModel:
    config_class, model_class, own = FAMILIES[family]
    settings = {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": KV_HEADS[heads],
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    config = config_class(**{**settings, **own, **changes})
    before = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = model_class(config).eval().requires_grad_(False)
    torch.random.set_rng_state(before)
    return model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Models by family ("llama", "qwen3-hybrid", ...) and heads ("mha", "gqa", "mqa"), made once."""
    made: dict[Any, PreTrainedModel] = {}

    def get(family: str = "llama", heads: str = "gqa", **changes: Any) -> PreTrainedModel:
        key = (family, heads, repr(sorted(changes.items())))
        if key not in made:
            made[key] = build(family, heads, **changes)
        return made[key]

    return get


@pytest.fixture(scope="session")
def fresh_model() -> MakeModel:
    """As make_model, but a new model each time, which a test may change."""
    return build


@pytest.fixture(scope="session")
def prompt() -> Callable[..., torch.Tensor]:
    """Random token ids [seq_len], none of them 0 (padding)."""

    def draw(seq_len: int, seed: int = 0) -> torch.Tensor:
        return torch.randint(1, 97, (seq_len,), generator=torch.Generator().manual_seed(seed))

    return draw


@contextmanager
def _masked_attention(model: PreTrainedModel, kept: dict[int, torch.Tensor], seq_len: int) -> Iterator[None]:
    """Dense attention in which tokens after the prompt do not see the prompt positions that a KV head has dropped."""

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        total, group = key.shape[2], query.shape[1] // key.shape[1]
        positions = torch.arange(total)
        at = positions[-query.shape[2] :, None]
        visible = (positions <= at).expand(query.shape[1], -1, -1).clone()
        if module.layer_idx in kept:
            allowed = torch.ones(key.shape[1], total, dtype=torch.bool)
            allowed[:, :seq_len] = kept[module.layer_idx]
            visible &= allowed.repeat_interleave(group, 0)[:, None] | (at < seq_len)
        else:
            visible &= positions > at - module.config.sliding_window
        logits = query @ key.repeat_interleave(group, 1).transpose(2, 3) * kwargs["scaling"]
        weights = logits.masked_fill(~visible, -torch.inf).softmax(-1)
        return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2).contiguous(), None

    name, before = "dense_masked_reference", model.config._attn_implementation
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, lambda *args, **kwargs: None)
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before
        AttentionInterface._global_mapping.pop(name)
        AttentionMaskInterface._global_mapping.pop(name)


def masked_logits(
    model: PreTrainedModel, prompt: torch.Tensor, after: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Logits [len(after), vocab_size] at the tokens `after` the prompt, from one dense pass without any cache.

    mask: bool [full-attention layers, num_kv_heads, seq_len], the kept prompt positions.
    """
    types = getattr(model.config, "layer_types", None) or ["full_attention"] * model.config.num_hidden_layers
    full = [i for i, kind in enumerate(types) if kind == "full_attention"]
    with _masked_attention(model, dict(zip(full, mask, strict=True)), len(prompt)), torch.no_grad():
        logits = model(input_ids=torch.cat([prompt, after])[None], use_cache=False).logits[0]
    return logits[len(prompt) :]


@pytest.fixture(scope="session")
def dense_reference() -> Callable[..., torch.Tensor]:
    return masked_logits


@pytest.fixture(scope="session")
def uneven_mask() -> Callable[..., torch.Tensor]:
    """Random kept positions bool [layers, kv_heads, seq_len] of very different sizes; some heads keep nothing."""

    def draw(layers: int, kv_heads: int, seq_len: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand(layers, kv_heads, 1, generator=generator)
        mask = torch.rand(layers, kv_heads, seq_len, generator=generator) < share
        empty = torch.randperm(layers * kv_heads, generator=generator)[: max(layers * kv_heads // 3, 1)]
        mask.view(-1, seq_len)[empty] = False
        return mask

    return draw
