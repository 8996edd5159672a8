"""Small models with random weights (MHA, GQA, MQA; two layers), read with the embedded model's tokenizer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cokv.cache.prefill import Prefill, prefill
from cokv.methods.scorers import Scorer
from cokv.model.observe import Observer

KV_HEADS = {"MHA": 4, "GQA": 2, "MQA": 1}  # of 4 query heads


@functools.cache
def tokenizer() -> Any:
    with as_file(files("cokv.embedded") / "weights") as folder:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


@functools.cache
def small_model(heads: str, dtype: torch.dtype = torch.float32) -> Any:
    if dtype != torch.float32:
        return copy.deepcopy(small_model(heads)).to(dtype)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=KV_HEADS[heads],
        head_dim=8,
        max_position_embeddings=1 << 16,
        initializer_range=0.15,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def read(
    scorer: Scorer,
    seq_len: int,
    heads: str = "GQA",
    repeated: bool = False,
    dtype: torch.dtype = torch.float32,
    observers: Sequence[Observer] | None = None,
) -> Prefill:
    """The Prefill, as the scorer needs it, of a prompt of random tokens or of one token repeated."""
    model, generator = small_model(heads, dtype), torch.Generator().manual_seed(seq_len)
    ids = torch.randint(8, model.config.vocab_size, (seq_len,), generator=generator)
    if repeated:
        ids = ids[:1].repeat(seq_len)
    observers = getattr(scorer, "observers", ()) if observers is None else observers
    return prefill(model, ids, max(scorer.window_size, 1), observers, tokenizer())


def roomy(scorer: Scorer) -> int:
    """An odd number of tokens, well above what the scorer always keeps."""
    return 4 * max(scorer.window_size, scorer.reserved(1 << 14)) + 45


def scored(scorer: Scorer, seq_lens: Sequence[int], **options: Any) -> Iterator[tuple[str, int, torch.Tensor]]:
    """(heads and length in words, seq_len, scores) of every layer; options: of `read`."""
    for seq_len in seq_lens:
        for layer in read(scorer, seq_len, **options).layers:
            yield f"{options.get('heads', 'GQA')}, {seq_len} tokens", seq_len, scorer.scores(layer)
