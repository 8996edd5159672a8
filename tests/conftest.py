"""Small random models with varied answers, and an independent reference: dense attention masked per (layer, KV head).

A model's weights are drawn widely (initializer_range 0.15), else greedy decoding of a random model repeats one token
and any two ways to decode would agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AttentionInterface,
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from transformers.masking_utils import AttentionMaskInterface

from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.method import Method
from cokv.methods.registry import METHODS, get_method
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import HeadScores

MIXED_LAYERS = {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 16}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

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
    "gemma": (GemmaConfig, GemmaForCausalLM, {}),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        # A cap that logits reach. Before 5.20 sdpa, the default then, leaves it out.
        {**MIXED_LAYERS, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 16, "attn_implementation": "eager"},
    ),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {**MIXED_LAYERS, "query_pre_attn_scalar": 16}),
    "phi": (PhiConfig, PhiForCausalLM, {}),
    "phi3": (Phi3Config, Phi3ForCausalLM, {}),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM, {}),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM, {"no_rope_layers": [1, 0, 1]}),
    "granite": (GraniteConfig, GraniteForCausalLM, {"attention_multiplier": 0.1, "residual_multiplier": 0.5}),
    "gpt-oss": (
        GptOssConfig,
        GptOssForCausalLM,
        {**MIXED_LAYERS, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": PLAIN_ROPE},
    ),
    "cohere2": (Cohere2Config, Cohere2ForCausalLM, MIXED_LAYERS),
    "mixtral": (MixtralConfig, MixtralForCausalLM, {"num_local_experts": 4, "num_experts_per_tok": 2}),
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
    for module in model.modules():
        if getattr(module, "sinks", None) is not None:
            module.sinks.normal_(mean=2.0)  # drawn like other weights they would take next to nothing of the softmax
    torch.random.set_rng_state(before)
    return model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Models by family ("llama", "qwen3-hybrid", ...) and heads ("mha", "gqa", "mqa"), made once."""
    models: dict[Any, PreTrainedModel] = {}

    def get(family: str = "llama", heads: str = "gqa", **changes: Any) -> PreTrainedModel:
        key = (family, heads, repr(sorted(changes.items())))
        if key not in models:
            models[key] = build(family, heads, **changes)
        return models[key]

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


class Words:
    """A tokenizer to which id 1 is special and every ninth id a comma."""

    all_special_ids = (1,)

    def decode(self, ids: list[int]) -> str:
        return "," if ids[0] % 9 == 0 else "word"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1 + ord(c) % 90 for c in text]}


@pytest.fixture(scope="session")
def words() -> Words:
    return Words()


# Hyper-parameters that suit prompts of about 100 tokens and 40 slots per head.
SMALL = {"window_size": 8, "kernel_size": 3, "num_sinks": 4, "local": 16, "page": 8, "group": 8, "residual": 16}
SMALL |= {"history": 40, "recent": 8, "alpha": 1, "least_threshold": 0}


@pytest.fixture(scope="session")
def small_method() -> Callable[..., Method]:
    """A method of the table, by name and preset, with hyper-parameters that suit a short prompt."""

    def fitted(name: str, preset: str = "normalized") -> Method:
        known = METHODS[name].with_preset(preset).parameters
        return get_method(name, preset, **{key: value for key, value in SMALL.items() if key in known})

    return fitted


@pytest.fixture(scope="session")
def profile_of() -> Callable[..., Any]:
    """A random profile of the kind that a method needs, None where it needs none."""

    def draw(method: Method, num_layers: int = 3, num_kv_heads: int = 2) -> Any:
        rng = np.random.default_rng(0)
        if not method.needs_profile:
            return None
        if method.name == "lukv":
            return RatioCurves(keep_ratios(rng.exponential(size=(num_layers, num_kv_heads, 50))))
        return HeadScores(0.5 + rng.random((num_layers, num_kv_heads)))

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
        if kwargs.get("softcap") is not None:
            logits = (logits / kwargs["softcap"]).tanh() * kwargs["softcap"]
        logits = logits.masked_fill(~visible, -torch.inf)
        if kwargs.get("s_aux") is not None:  # one more column, of which there is no value
            logits = torch.cat([logits, kwargs["s_aux"].view(1, -1, 1, 1).expand(*logits.shape[:-1], 1)], dim=-1)
        weights = logits.softmax(-1)[..., :total]
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
