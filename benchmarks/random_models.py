"""Models with random weights of known shapes: the speed of a model does not depend on what it says.

Also made-up prompts (`drawn_prefill`), for contexts that take too long to read, and head budgets as uneven as head
scores make them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from game_worlds import SHAPES as KNOWN
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cokv.cache.prefill import Prefill, PrefillLayer
from cokv.model.shape import model_shape
from cokv.types import HeadScores, Selection

SHAPES: dict[str, dict[str, Any]] = {
    **KNOWN,
    "100m": {  # 8 layers, 4 query heads to a KV head
        "vocab_size": 1000,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
}


def random_model(
    shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    config = LlamaConfig(**{**SHAPES[shape], "max_position_embeddings": 1 << 20, **changes})
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Another model with the same weights in the same memory, which nothing has been attached to."""
    with torch.device("meta"):
        twin_model = type(model)(model.config.__class__(**model.config.to_dict()))
    twin_model.load_state_dict(model.state_dict(), assign=True)
    rotary = twin_model.model.rotary_emb  # its frequencies are no part of the state
    for name, buffer in model.model.rotary_emb.named_buffers():
        rotary.register_buffer(name, buffer, persistent=False)
    rotary.original_inv_freq = model.model.rotary_emb.original_inv_freq
    twin_model.set_attn_implementation("sdpa")
    return twin_model.eval().requires_grad_(False)


def random_ids(model: PreTrainedModel, tokens: int, seed: int = 0) -> torch.Tensor:
    """int64 [tokens], on the CPU."""
    return torch.randint(3, model.config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(seed))


def drawn_prefill(model: PreTrainedModel, tokens: int, window: int) -> Prefill:
    """What a prompt of so many tokens leaves, drawn at random instead of read; nothing was observed."""
    shape = model_shape(model.config)
    generator = torch.Generator(device=model.device).manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=model.device, dtype=model.dtype)

    layers = [
        PrefillLayer(
            i,
            normal(shape.num_kv_heads, tokens, shape.head_dim),
            normal(shape.num_kv_heads, tokens, shape.head_dim),
            normal(shape.num_heads, min(window, tokens), shape.head_dim),
            shape.head_dim**-0.5,
        )
        for i in shape.full_layers
    ]
    logits = torch.zeros(model.config.vocab_size, device=model.device)
    return Prefill(shape, random_ids(model, tokens), layers, {}, logits)


def uneven_budgets(mean: int, heads: int, seed: int) -> list[int]:
    """Budgets with exactly this mean, one for each head of a layer, whose largest is about 3.6 times it."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(heads, 0.6))
    shares = shares / shares.max() * 3.6 / heads
    shares += (1 - shares.sum()) / heads if shares.sum() < 1 else 0
    shares = shares / shares.sum() * mean * heads
    counts = np.maximum(1, np.floor(shares)).astype(int)
    order = np.argsort(-counts)
    for place in range(abs(difference := mean * heads - int(counts.sum()))):
        counts[order[place % heads]] += 1 if difference > 0 else -1
    return [int(count) for count in counts]


def head_profile(model: PreTrainedModel) -> HeadScores:
    """Head scores as unlike as those of real heads, drawn."""
    shape = model_shape(model.config)
    values = np.random.default_rng(0).dirichlet(np.full(shape.num_layers * shape.num_kv_heads, 0.6))
    return HeadScores(values.reshape(shape.num_layers, shape.num_kv_heads), {"origin": "drawn"})


def uneven_selection(read: Prefill, mean: int) -> Selection:
    """Every layer's heads keep unlike numbers of tokens, evenly spread over the prompt."""
    counts = np.array(
        [uneven_budgets(mean, read.shape.num_kv_heads, seed=layer) for layer in range(read.shape.num_layers)]
    ).clip(max=read.seq_len)
    positions = [np.linspace(0, read.seq_len - 1, count).astype(np.int64) for count in counts.reshape(-1)]
    return Selection(torch.from_numpy(np.concatenate(positions)), counts, read.seq_len)


class PlainTokenizer:
    """Says something for every id, for methods that ask: one in ten is punctuation, 0 to 2 are special."""

    all_special_ids = (0, 1, 2)

    def decode(self, ids: list[int]) -> str:
        return "".join("." if token % 10 == 3 else f" w{token}" for token in ids)

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(character) % 90 for character in text]}
