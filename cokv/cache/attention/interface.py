"""How the engine is reached: one function in transformers' attention interface, switched on for one model, for a while.

A cache layer that wants to answer for itself tags the key tensor it returns from `update` with itself; the registered
function finds the tag and hands it the post-RoPE queries. Keys without a tag go to transformers' own SDPA function,
so any other cache works unchanged. Nothing is patched: on exit the model has its old implementation, and the names
are gone from the interfaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cokv.cache.compat import register_attention, unregister_attention
from cokv.types import CokvError

NAME = "cokv"
_TAG = "_cokv_layer"
_depth = 0  # how many `engine` blocks are open in this process


class AttentionLayer(Protocol):
    """A cache layer that takes part in attention.

    Shapes: queries [batch, num_heads, t, head_dim], keys and values [batch, num_kv_heads, n, head_dim].
    """

    def attends(self) -> bool:
        """Whether this layer computes attention itself now (it holds more, or less, than the keys it returned)."""

    def check_mask(self, mask: torch.Tensor | None, t: int) -> None:
        """Called before `attend`, which knows no mask, of t new tokens: refuses one that this layer would not follow.

        mask: as for transformers' SDPA, [1 or batch, 1, t, n]; none where each token sees all before it.
        """

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
        """Output [batch, num_heads, t, head_dim]."""

    def observe(self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> None:
        """Called after ordinary attention over the returned keys: record queries, or compress."""


def tagged(keys: torch.Tensor, layer: AttentionLayer) -> torch.Tensor:
    """A view of the keys that carries the layer to the attention function."""
    if _depth == 0:
        raise CokvError(
            "a cache of cokv was used outside `engine(model)`, where nothing reads it; run the model inside that block"
        )
    view = keys.view(keys.shape)
    setattr(view, _TAG, layer)
    return view


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The registered function: query [batch, num_heads, t, head_dim] -> [batch, t, num_heads, head_dim]."""
    layer = cast("AttentionLayer | None", getattr(key, _TAG, None))
    scaling = scaling if scaling is not None else query.shape[-1] ** -0.5
    if layer is not None and (kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None):
        raise CokvError(
            "this model caps its attention logits or has attention sinks of its own; expected plain softmax attention"
        )
    if layer is None or not layer.attends():
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        if layer is not None:
            layer.observe(query, attention_mask, scaling)
        return out, None
    layer.check_mask(attention_mask, query.shape[2])
    return layer.attend(query, key, value, scaling).transpose(1, 2).contiguous(), None


@contextmanager
def engine(model: PreTrainedModel) -> Iterator[None]:
    """Lets caches of this package take part in `model`'s attention inside the block; undone also after an exception.

    May be nested, and open for several models. Not for several threads.
    """
    global _depth
    before = model.config._attn_implementation
    if _depth == 0:
        register_attention(NAME, attention)
    _depth += 1
    try:
        if before != NAME:
            model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise CokvError(
                f"{type(model).__name__} does not compute its attention through transformers' attention interface; "
                "use a model that does"
            )
        yield
    finally:
        if before != NAME:
            model.set_attn_implementation(before)
        _depth -= 1
        if _depth == 0:
            unregister_attention(NAME)
