"""A compressed context from a file: `cache = cokv.load_cache(model, path)`, written by `cache.save(path)`.

In another process, with the same model, it goes on as the cache that was saved would have: join a question to
`cache.input_ids`, and give both to `model.generate`. Nothing in a file is run; see cokv/cache/encoding.py.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedModel

from cokv.cache.attention.attachment import attach, ragged_attention, text_part
from cokv.cache.files import fill_cache, read_file
from cokv.cache.loaded import Loaded
from cokv.cache.policies.protocol import ReadsKinds
from cokv.cache.storage.plain import PlainRows
from cokv.deployment.cache import CompressedCache
from cokv.methods.registry import METHODS
from cokv.model.devices import layer_devices
from cokv.model.identity import model_identity
from cokv.model.shape import model_shape
from cokv.types import CokvError


def load_cache(
    model: PreTrainedModel, path: str | os.PathLike[str], tokenizer: Any = None, attention: str | None = None
) -> CompressedCache:
    """The cache that was saved at `path`, each layer on the device where the model runs it.

    model: the one that made it; it answers through cokv's attention from now on, as after `cokv.compress`. tokenizer:
    for methods that must know what tokens say while decoding (fastgen). attention: backend by name, as for
    `cokv.compress`; the saved cache's, where none is named.

    Raises CokvError for a cache of another model (its shape, dtype or weights differ), and for a file that is damaged,
    of a later format, or no saved cache at all.
    """
    where = os.fspath(path)
    facts, encoded, tensors = read_file(path)
    _check_model(where, model, facts)
    with ragged_attention(model):
        shape = model_shape(model.config)
        cache = CompressedCache(model, Loaded(shape, facts["method"]), tokenizer, attention or facts["attention"])
        try:
            fill_cache(cache, encoded, tensors, layer_devices(text_part(model)))
        except CokvError as error:
            raise CokvError(f"{where}: {error}") from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CokvError(f"{where}: not what a cache consists of ({type(error).__name__}); save it again") from None
        _tell_kinds(where, cache, tokenizer)
        ids = tensors.get("input_ids")
        if ids is not None:
            cache.tokens.read(0, ids.long().to(model.device))
        cache.holds_prompt = ids is not None
        attach(model)
    return cache


def _check_model(where: str, model: PreTrainedModel, facts: Any) -> None:
    """Each difference in one line, the plainest first."""
    saved, own = facts["model"], asdict(model_identity(model, text_part(model)))
    for what in ("shape", "dtype", "digest"):
        if saved[what] != own[what]:
            got, expected = (f"{each['name']} with {each[what]}" for each in (own, saved))
            if what == "digest":
                got, expected = (f"weights {each['digest'][:12]}" for each in (own, saved))
            raise CokvError(f"{where}: is a cache of another model: {expected}, and this one is {got}; load that model")


def _tell_kinds(where: str, cache: CompressedCache, tokenizer: Any) -> None:
    """Rules that must know which kinds of tokens are read need a tokenizer now."""
    stores = [store for layer in cache.ragged_layers for _, store in layer.parts if isinstance(store, PlainRows)]
    rules = [rule for store in stores for rule in (getattr(e, "rule", None) for e in store.evictors)]
    if any(isinstance(rule, ReadsKinds) for rule in rules):
        if tokenizer is None:
            raise CokvError(f"{where}: its method must know what tokens say; give tokenizer=")
        cache._know_kinds([rule for rule in rules if rule is not None], tokenizer)


_ = METHODS  # loaded, so that the rules that files name are known
