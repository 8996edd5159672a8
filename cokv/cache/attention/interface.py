"""The attention function that caches of this package are reached through.

A cache layer that wants to answer for itself marks the key tensor it returns from `update`; the function finds the mark
and hands the layer the post-RoPE queries. Keys without a mark go to the implementation that the model had (sdpa, eager,
flash_attention_2), so any other cache works unchanged. It keeps no state, so models and threads do not meet. How a
model comes to use it: attachment.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from cokv.cache.attention.handshake import TAG, Offer, in_autocast_dtype
from cokv.cache.compat import ATTENTION_FUNCTIONS


def attention(
    base: str,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The registered function: query [batch, num_heads, t, head_dim] -> [batch, t, num_heads, head_dim].

    base: the implementation that answers for keys which are not marked, and for prompts.
    """
    offer: Offer | None = getattr(key, TAG, None)
    if offer is None:
        return _implementation(base, module)(module, query, key, value, attention_mask, **settings)
    layer = offer.accept(query, key, value, settings)
    scaling = settings.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    sinks = settings.get("s_aux")
    sinks = None if sinks is None else sinks.detach()
    device = query.device.type
    if not layer.attends():
        result = _implementation(base, module)(module, query, key, value, attention_mask, **settings)
        with torch.autocast(device, enabled=False):  # scores are float32 whatever the model computes in
            layer.observe(in_autocast_dtype(query), attention_mask, scaling, sinks)
        return result
    if settings.get("dropout") or settings.get("output_attentions"):
        raise offer.handshake.refusal(
            layer,
            "is asked for dropout or attention weights, which a compressed cache does not have; call model.eval()",
        )
    if torch.is_grad_enabled() and query.requires_grad:
        raise offer.handshake.refusal(layer, "is run with gradients, which a compressed cache has none of; use no_grad")
    layer.check_mask(attention_mask, query.shape[2])
    query = in_autocast_dtype(query)
    with _plain_numbers(device):
        out = layer.attend(query, key, value, scaling, sinks).to(query.dtype)
    return out.transpose(1, 2).contiguous(), None


def _plain_numbers(device: str) -> AbstractContextManager[None]:
    """No gradients, no autocast, no inference mode; without the price of saying so where that is so already."""
    if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or torch.is_autocast_enabled(device):
        return _plain_numbers_from_here(device)
    return nullcontext()


@contextmanager
def _plain_numbers_from_here(device: str) -> Iterator[None]:
    """Storage is written in place: it must not be made of inference tensors, which no no_grad block could change."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        yield


def _implementation(base: str, module: torch.nn.Module) -> Callable[..., Any]:
    """The model's own: eager attention is a function of its modeling file, which may also override others."""
    modeling = sys.modules[type(module).__module__]
    if base == "eager":
        return modeling.eager_attention_forward  # type: ignore[no-any-return]
    interface = getattr(modeling, "ALL_ATTENTION_FUNCTIONS", ATTENTION_FUNCTIONS)
    return interface[base]  # type: ignore[no-any-return]
