"""The model that a training starts from: its shape, a planted head, and the weights of an earlier training."""

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from suite.embedded.tokenizer import token_id


def config(args: argparse.Namespace, tokenizer: Tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=args.width,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        head_dim=args.head_dim,
        max_position_embeddings=args.max_length * 2,
        tie_word_embeddings=True,
        pad_token_id=token_id(tokenizer, "<pad>"),
        bos_token_id=token_id(tokenizer, "<bos>"),
        eos_token_id=token_id(tokenizer, "<eos>"),
    )


@torch.no_grad()
def plant_previous_token_head(model: LlamaForCausalLM, dims: int = 6, strength: float = 2.0) -> None:
    """Starts the first KV head of the bottom layer as one that attends to the token before.

    It is trained like everything else from there. An induction circuit needs this head and a matching head above it,
    and neither earns anything before the other exists: forming both from noise took most of an hour here, from this
    start it takes minutes. A dimension that is constant over tokens gives queries and keys a fixed part u and R(1)u;
    rotary attention over the `dims` fastest pairs then peaks one position back.
    """
    config: Any = model.config
    body: Any = model.model
    attention = body.layers[0].self_attn
    dim, group = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    half = dim // 2
    angles = 10_000.0 ** (-torch.arange(dims) / half)
    query, key = torch.zeros(dim), torch.zeros(dim)
    query[:dims] = strength**0.5
    key[:dims], key[half : half + dims] = strength**0.5 * angles.cos(), strength**0.5 * angles.sin()
    body.embed_tokens.weight[:, 0] = 5 * config.initializer_range
    attention.q_proj.weight[: group * dim] = 0
    attention.q_proj.weight[: group * dim, 0] = query.repeat(group)
    attention.k_proj.weight[:dim] = 0
    attention.k_proj.weight[:dim, 0] = key
    for layer in body.layers:
        layer.self_attn.v_proj.weight *= 2
        layer.self_attn.o_proj.weight *= 2


def load_weights(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Takes over the weights of a folder; words new to it start around the mean word."""
    state = model.state_dict()
    name = "model.embed_tokens.weight"
    weights = load_file(str(folder / "model.safetensors"), device=str(state[name].device))
    stored = weights[name]
    rows = stored.mean(0) + stored.std() * torch.randn_like(state[name])
    rows[:, 0] = stored[:, 0].mean()  # what the previous-token head reads: alike in all words
    stored_ids, new_ids = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(), tokenizer.get_vocab()
    for piece in stored_ids.keys() & new_ids.keys():
        rows[new_ids[piece]] = stored[stored_ids[piece]]
    missing, unexpected = model.load_state_dict({**weights, name: rows}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
