"""Shapes of the hub models that shipped experiments name: hub_models.toml."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from cokv.model.shape import Shape


@dataclass(frozen=True)
class HubModel:
    """A hub model's config. gated: the hub asks for consent to a licence before it gives the weights."""

    name: str
    revision: str  # a commit of its repository
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocabulary: int
    positions: int
    parameters: int
    gated: bool = False
    qk_norm: bool = False

    @property
    def shape(self) -> Shape:
        """As of a loaded model, all of whose layers attend everything."""
        return Shape(
            num_hidden_layers=self.layers,
            full_layers=tuple(range(self.layers)),
            sliding_window=None,
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            context_length=self.positions,
        )

    @property
    def parameters_of_shape(self) -> int:
        """Parameters that the shape gives: embedding and output apart, a gated MLP, no biases."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        per_layer = attention + 3 * self.hidden * self.intermediate + norms
        return self.layers * per_layer + 2 * self.vocabulary * self.hidden + self.hidden


@functools.cache
def hub_models() -> dict[str, HubModel]:
    """By repository."""
    table = tomllib.loads((files("suite.known") / "hub_models.toml").read_text(encoding="utf-8"))
    return {name: HubModel(name=name, **facts) for name, facts in table.items()}
