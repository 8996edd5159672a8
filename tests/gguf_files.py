"""Tiny GGUF files, written tensor by tensor as llama.cpp's converter lays them out, with small tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel

ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEXT = ["The road was long and the water was cold.", "Room 17 has 4,096 doors; nobody counted them twice!"] * 8
VOCAB = 300


@cache
def byte_level() -> Tokenizer:
    """A byte-level BPE tokenizer of VOCAB tokens, three of them special, split as GPT-2 does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [ENDOFTEXT, IM_START, IM_END]
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def tokenizer_metadata(pre: str | None = "gpt-2") -> dict[str, Any]:

    model = json.loads(byte_level().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    stated: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in (ENDOFTEXT, IM_START, IM_END) else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }
    return stated if pre is None else {**stated, "tokenizer.ggml.pre": pre}


PIECES = ["▁t", "he", "▁the", "▁r", "ad", "oad", "▁road", "▁w", "as", "▁was"]  # in the order of their merges' results


def sentencepiece_metadata() -> dict[str, Any]:
    """A sentencepiece vocabulary, as of Llama 2, Mistral and Gemma: scores, byte tokens, and no merges."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz.,"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *fallback, *PIECES, *letters]
    tokens = tokens[:VOCAB]
    scores = [0.0] * 259 + [-float(place) for place in range(len(tokens) - 259)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


def model_metadata(model: PreTrainedModel, architecture: str) -> dict[str, Any]:
    config = model.config
    parameters = config.rope_parameters.get("full_attention", config.rope_parameters)
    stated = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    stated["rope.dimension_count" if architecture == "llama" else "attention.key_length"] = head_dim
    return {f"{architecture}.{name}": value for name, value in stated.items()}


def tensors(model: PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    """By GGUF name, in float32. llama.cpp interleaves the two rotary halves of q and k in Llama's files."""
    names = gguf.get_tensor_name_map(_arch(architecture), model.config.num_hidden_layers)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    named: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = model.config.num_attention_heads if "q_proj" in name else model.config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if architecture == "gemma3" and "norm" in name:
            values = values + 1
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        named[known] = np.ascontiguousarray(values)
    return named


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    architecture: str = "llama",
    half: bool = False,
    metadata: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    extra: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """half: matrices in float16. metadata: added; None drops. without: tensors dropped. extra: tensors added."""
    writer = gguf.GGUFWriter(path, architecture)
    stated = {**model_metadata(model, architecture), **tokenizer_metadata(), **(metadata or {})}
    for name, value in stated.items():
        if value is None:
            continue
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_array(name, value)
    for name, values in {**tensors(model, architecture), **(extra or {})}.items():
        if name not in without:
            writer.add_tensor(name, values.astype(np.float16) if half and values.ndim > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: PreTrainedModel, ids: Sequence[int] = tuple(range(5, 45))) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0]


def _arch(name: str) -> Any:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
