"""One layer of a made-up prefill, and its whole attention matrix in float64, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cokv.cache.prefill import PrefillLayer
from cokv.model.observe import LayerView, ModelParts
from cokv.types import CokvError


class World:
    """A layer with all its queries. `layer(observers)` is what a prefill would hold of it."""

    def __init__(
        self, num_heads: int, num_kv_heads: int, seq_len: int, seed: int = 0, kind: str = "random", head_dim: int = 4
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator) * 1.5  # noqa: E731
        self.queries, self.keys = draw(num_heads, seq_len, head_dim), draw(num_kv_heads, seq_len, head_dim)
        self.values, self.scaling = draw(num_kv_heads, seq_len, head_dim), head_dim**-0.5
        self.output = draw(num_heads, head_dim, 6)
        if kind == "ties":  # few distinct tokens, so that many scores are equal
            which = torch.randint(0, 3, (seq_len,), generator=generator)
            self.keys, self.values = self.keys[:, which % seq_len], self.values[:, which % seq_len]
        elif kind == "sink":  # everybody looks at the first token
            self.keys[:, 0], self.queries[..., 0] = 0, 3
            self.keys[:, 0, 0] = 4
        self.ids = torch.randint(1, 97, (seq_len,), generator=generator)

    def view(self, model: Any = None, tokenizer: Any = None) -> LayerView:
        parts = ModelParts(model, tokenizer)
        return LayerView(0, self.ids, self.queries, self.keys, self.values, self.scaling, parts)

    def layer(self, observers: Any = (), held: int | None = None, view: LayerView | None = None) -> PrefillLayer:
        held = self.queries.shape[1] if held is None else held
        layers: dict[Any, Any] = {}
        for observer in observers:
            try:
                layers[observer] = observer.observe(view or self.view())
            except CokvError as error:
                layers[observer] = error
        window = self.queries[:, self.queries.shape[1] - held :]
        return PrefillLayer(0, self.keys, self.values, window, self.scaling, layers)

    def attention(self) -> np.ndarray:
        """[num_heads, seq_len, seq_len], causal, one row after the other."""
        queries, keys = self.queries.double().numpy(), self.keys.double().numpy()
        num_heads, seq_len, _ = queries.shape
        group = num_heads // keys.shape[0]
        weights = np.zeros((num_heads, seq_len, seq_len))
        for head in range(num_heads):
            for row in range(seq_len):
                logits = np.array([queries[head, row] @ keys[head // group, j] for j in range(row + 1)]) * self.scaling
                shifted = np.exp(logits - logits.max())
                weights[head, row, : row + 1] = shifted / shifted.sum()
        return weights

    def by_kv_head(self, per_head: np.ndarray) -> np.ndarray:
        """Mean over the query heads that share a KV head: [num_heads, ...] -> [num_kv_heads, ...]."""
        return per_head.reshape(self.keys.shape[0], -1, *per_head.shape[1:]).mean(axis=1)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    return World


@pytest.fixture(params=[(4, 4), (4, 2), (4, 1), (6, 2), (1, 1)], ids=["mha", "gqa", "mqa", "group3", "one"])
def heads(request: pytest.FixtureRequest) -> tuple[int, int]:
    """num_heads, num_kv_heads"""
    return request.param


@pytest.fixture(params=["random", "ties", "sink"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param
