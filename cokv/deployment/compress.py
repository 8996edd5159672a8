"""One line deploys a method: `cache = cokv.compress(model, "snapkv", kv_budget=256)`.

The cache is an ordinary transformers cache: give it to `model.generate` as `past_key_values`. It compresses the prompt
in the forward pass that reads it, and does afterwards whatever else the method's name promises.
"""

from __future__ import annotations

import os
from typing import Any

from transformers import PreTrainedModel

from cokv.cache.attention import choose
from cokv.cache.attention.attachment import attach, ragged_attention
from cokv.deployment.cache import CompressedCache
from cokv.deployment.compression import MethodCompression
from cokv.methods.method import NORMALIZED, Method
from cokv.methods.registry import get_method
from cokv.model.half_precision import warn_of_slow_products
from cokv.model.shape import model_shape
from cokv.types import CokvError, KVBudget


def compress(
    model: PreTrainedModel,
    method: str | Method,
    kv_budget: int | str | None = None,
    profile: Any = None,
    preset: str = NORMALIZED,
    tokenizer: Any = None,
    attention: str = choose.AUTO,
    **params: Any,
) -> CompressedCache:
    """A cache that compresses a prompt by `method`, to pass as `past_key_values` to `model.generate`.

    model: a transformers decoder; its text part answers through cokv's attention from now on, with identical results
    for any other cache. method: a name of `cokv.METHODS`, a Method, `module:Class` or `kvpress:Press`. kv_budget: mean
    KV slots per (layer, KV head), window and sinks included, or a share of the prompt's tokens ("20%"). profile: what
    the method needs of the model, an object, a file, the name of a shipped one ("embedded/cokv"), or the name of its
    model ("embedded"), of whose profiles the method takes its own. tokenizer: for
    methods that must know what tokens say. attention: the backend that attends what is kept, by name (see `cokv doctor`
    for those that are available), or "auto": the first that serves the model's device and dtype. params: the method's
    hyper-parameters.

    The prompt is the model's first forward pass; what is read later, such as a further turn, is read on the compressed
    cache. A prompt that is to be read in pieces is told before: `cache.prefill(ids, chunk_size=n)`, or
    `cache.expect_prompt(ids.shape[1])` and then `model.generate(ids, prefill_chunk_size=n, ...)`. Methods that keep
    every token (full, KIVI, ThinK) take any kv_budget, and none.

    A layer is compressed as soon as it has read the prompt, so that one at a time is dense, unless the method's `needs`
    says "all layers at once".

    Raises CokvError, before any prompt is read, for a model or a method that could not keep its promise here, and
    Infeasible for a budget that the method cannot meet.
    """
    chosen = get_method(method, preset, **params)
    if chosen.takes_budget and kv_budget is None:
        raise CokvError(f"{chosen.name}: needs kv_budget, KV slots per head or a share of the prompt such as '20%'")
    if isinstance(profile, (str, os.PathLike)):
        from cokv.profiles.load import profile_for

        profile = profile_for(profile, chosen)
    if tokenizer is None and any(getattr(observer, "needs_tokenizer", False) for observer in chosen.observers):
        raise CokvError(f"{chosen.name}: needs to know what tokens say; give tokenizer=")
    with ragged_attention(model):  # refuses a model that it cannot serve, and leaves one to which the method says no
        shape = model_shape(model.config)
        choose.check_backend(attention, model.device, model.dtype, shape.head_dim, shape.softcap)
        chosen.check(kv_budget, shape.num_layers, shape.num_kv_heads, profile, shape.group_size)
        attach(model, inputs=any(getattr(observer, "needs_inputs", False) for observer in chosen.observers))
    warn_of_slow_products(model.device.type, model.dtype)
    budget = KVBudget.parse(kv_budget) if chosen.takes_budget else None
    return CompressedCache(model, MethodCompression(chosen, budget, profile, shape), tokenizer, attention)
