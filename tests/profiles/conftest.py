"""Published files, where they are at hand; full attention matrices of a model, for plain oracles in NumPy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache


@pytest.fixture
def published() -> Path:
    root = os.environ.get("COKV_TEST_DATA")
    if root is None:
        pytest.skip("COKV_TEST_DATA is not set: the published profiles are not available")
    return Path(root)


@pytest.fixture
def data_files(published: Path) -> list[Path]:
    """The CoKV files of sums and counts."""
    paths = sorted((published / "cokv_scores").glob("*.npy"))
    assert paths, "COKV_TEST_DATA holds no cokv_scores/*.npy"
    return paths


def _matrices(model: Any, ids: torch.Tensor) -> np.ndarray:
    """Attention as transformers' eager function gives it: [num_layers, num_heads, seq_len, seq_len]."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model(ids[None], output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    return np.stack([layer[0].double().numpy() for layer in out.attentions])


def _values(model: Any, ids: torch.Tensor) -> np.ndarray:
    """[num_layers, num_kv_heads, seq_len, head_dim]"""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[None], past_key_values=cache)
    return np.stack([layer.values[0].double().numpy() for layer in cache.layers])


def _greedy(model: Any, ids: torch.Tensor, count: int) -> list[int]:
    """`count` tokens, each from a pass over everything before it."""
    generated: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.cat([ids, torch.tensor(generated, dtype=torch.int64)])[None]).logits
        generated.append(int(logits[0, -1].argmax()))
    return generated


@pytest.fixture
def full_attention() -> Callable[..., np.ndarray]:
    return _matrices


@pytest.fixture
def full_values() -> Callable[..., np.ndarray]:
    return _values


@pytest.fixture
def greedy_tokens() -> Callable[..., list[int]]:
    return _greedy
