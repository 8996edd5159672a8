"""Models that read this package's caches: attached for good, or inside a block, and given back as they were.

No model class is patched. Our attention function stands in transformers' interface under one name per implementation
that it falls back on; the config of a model's text part names it; two hooks on that part tell a cache when a forward
pass begins and ends.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from cokv.cache.attention.implementations import check_implementation
from cokv.cache.attention.interface import attention
from cokv.cache.compat import ATTENTION_FUNCTIONS, CACHE_NAMES, register_attention
from cokv.model.shape import model_shape
from cokv.types import CokvError

PREFIX = "cokv_"
PER_TOKEN = ("input_ids", "position_ids", "cache_position")  # arguments of a model with a number for each new token


@dataclass(eq=False)
class _Attachment:
    """What was changed on a model."""

    text: weakref.ref[torch.nn.Module]  # often the model itself, which must not be kept alive from here
    implementations: list[tuple[Any, str]]  # configs of the text part, and what each had
    hooks: list[Any]
    blocks: int = 0  # open `ragged_attention` blocks
    permanent: bool = False
    input_hooks: list[Any] = field(default_factory=list)
    input_blocks: int = 0  # of these blocks, those that want inputs
    permanent_inputs: bool = False


_attachments: weakref.WeakKeyDictionary[PreTrainedModel, _Attachment] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def attach(model: PreTrainedModel, inputs: bool = False) -> None:
    """Lets caches of this package take part in the model's attention, until `detach`. Other caches work as before.

    inputs: they are also shown what each attention module is called with.
    """
    with _lock:
        attachment = _attach(model)
        attachment.permanent = True
        attachment.permanent_inputs |= inputs
        _watch_inputs(attachment)


def detach(model: PreTrainedModel) -> None:
    """Gives every part of the model the attention implementation it had."""
    with _lock:
        attachment = _attachments.get(_unwrapped(model))
        if attachment is not None:
            attachment.permanent = attachment.permanent_inputs = False
            _release(_unwrapped(model), attachment)


@contextmanager
def ragged_attention(model: PreTrainedModel, inputs: bool = False) -> Iterator[None]:
    """As `attach`, inside the block. May be nested, open for several models and in several threads."""
    with _lock:
        attachment = _attach(model)
        attachment.blocks += 1
        attachment.input_blocks += inputs
        _watch_inputs(attachment)
    try:
        yield
    finally:
        with _lock:
            attachment.blocks -= 1
            attachment.input_blocks -= inputs
            _release(_unwrapped(model), attachment)


def base_implementation(model: PreTrainedModel) -> str:
    """The attention implementation that the model has, or had before it was attached."""
    return str(model.config.get_text_config(decoder=True)._attn_implementation).removeprefix(PREFIX)


def text_part(model: Any) -> Any:
    """The decoder that generates text, of a model that caches of this package can serve; others are refused."""
    return _text_part(_unwrapped(model))


def _attach(model: PreTrainedModel) -> _Attachment:
    model = _unwrapped(model)
    attachment = _attachments.get(model)
    if attachment is None:
        text = _text_part(model)
        configs = _configs(model, text)
        before = [(config, str(config._attn_implementation).removeprefix(PREFIX)) for config in configs]
        for config, base in before:
            config._attn_implementation = _registered(base, model)
        hooks = (
            []
            if _has_hook(text)
            else [
                text.register_forward_pre_hook(_before_forward, with_kwargs=True),
                text.register_forward_hook(_after_forward, with_kwargs=True),
            ]
        )
        attachment = _attachments[model] = _Attachment(weakref.ref(text), before, hooks)
    else:
        _follow(model, attachment)
    return attachment


def _follow(model: PreTrainedModel, attachment: _Attachment) -> None:
    """Takes up what `model.set_attn_implementation` has set since: it took our function away."""
    for place, (config, _) in enumerate(attachment.implementations):
        current = str(config._attn_implementation)
        if not current.startswith(PREFIX):
            config._attn_implementation = _registered(current, model)
            attachment.implementations[place] = (config, current)


def _release(model: PreTrainedModel, attachment: _Attachment) -> None:
    """Once nobody needs it any more."""
    _watch_inputs(attachment)
    if attachment.permanent or attachment.blocks or _attachments.get(model) is not attachment:
        return
    for config, base in attachment.implementations:
        if str(config._attn_implementation).startswith(PREFIX):
            config._attn_implementation = base
    for hook in attachment.hooks:
        hook.remove()
    del _attachments[model]


def _unwrapped(model: Any) -> PreTrainedModel:
    model = getattr(model, "_orig_mod", model)  # torch.compile
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT
    if not isinstance(model, PreTrainedModel):
        raise CokvError(f"got a {type(model).__name__}, expected a transformers model (PreTrainedModel)")
    return model


def _text_part(model: PreTrainedModel) -> Any:
    """The decoder that generates text. Refuses models whose attention cannot be reached."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise CokvError(f"{name} is an encoder-decoder model; expected a decoder that generates by itself")
    try:
        model_shape(model.config)
    except CokvError as error:
        raise CokvError(f"{name}: {error}") from None
    if model._is_stateful or not any(name in inspect.signature(model.forward).parameters for name in CACHE_NAMES):
        raise CokvError(f"{name} keeps a state that is no KV cache; expected a decoder with attention layers")
    decoder = model.get_decoder()
    text: Any = decoder if isinstance(decoder, PreTrainedModel) else model.base_model
    if not text._can_set_attn_implementation():
        raise CokvError(
            f"{name} does not compute its attention through transformers' attention interface; use a model that does"
        )
    return text


def _configs(model: PreTrainedModel, text: torch.nn.Module) -> list[Any]:
    """Those that name an attention implementation in the text part: mostly one object."""
    candidates: list[Any] = [model.config.get_text_config(decoder=True)]
    candidates += [module.config for module in text.modules() if hasattr(module, "config")]
    return list({id(config): config for config in candidates if hasattr(config, "_attn_implementation")}.values())


def _registered(base: str, model: PreTrainedModel) -> str:
    """The name under which our function stands that falls back on `base`."""
    check_implementation(base, model)
    name = PREFIX + base
    if name not in ATTENTION_FUNCTIONS:
        register_attention(name, partial(attention, base), base)
    return name


# ---- hooks: a cache learns when a forward pass of its model begins and ends


def _cache_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    cache = next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)
    if cache is None:
        cache = next((argument for argument in args if hasattr(argument, "forward_begins")), None)
    return cache if hasattr(cache, "forward_begins") else None


def _before_forward(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    cache = _cache_of(args, kwargs)
    if cache is None:
        return None
    ids = kwargs.get("input_ids")
    if ids is None and args and isinstance(args[0], torch.Tensor) and not args[0].is_floating_point():
        ids = args[0]
    already = 0 if ids is None else cache.already_read(ids, kwargs.get("position_ids"))
    if ids is None or not already:
        cache.forward_begins(type(module).__name__, ids)
        return None
    assert ids is not None
    ids = ids[:, already:]
    cache.forward_begins(type(module).__name__, ids)
    # Assisted decoding hands the model the whole prompt once more, where plain generation hands it what is new.
    shortened = {name: kwargs[name][..., already:] for name in PER_TOKEN if kwargs.get(name) is not None}
    return (ids, *args[1:]) if args else args, {**kwargs, **shortened}


def _after_forward(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    cache = _cache_of(args, kwargs)
    if cache is not None:
        cache.forward_ends()


def _before_attention(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    cache = _cache_of(args, kwargs)
    if cache is not None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        cache.attention_begins(module, states, kwargs)


def _has_hook(text: torch.nn.Module) -> bool:
    """A copy of an attached model brings its hooks along."""
    return _before_forward in text._forward_pre_hooks.values()


def _watch_inputs(attachment: _Attachment) -> None:
    """Has hooks on the attention modules exactly while somebody wants to know their inputs."""
    wanted, text = attachment.input_blocks > 0 or attachment.permanent_inputs, attachment.text()
    if not wanted or text is None:
        for hook in attachment.input_hooks:
            hook.remove()
        attachment.input_hooks = []
    elif not attachment.input_hooks:
        attachment.input_hooks = [
            module.register_forward_pre_hook(_before_attention, with_kwargs=True)
            for module in text.modules()
            if isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "o_proj")
        ]
