"""KV-cache compression for transformers models, under one budget rule.

    cache = cokv.compress(model, "snapkv", kv_budget=256)     # or "20%": a share of the prompt
    model.generate(**inputs, past_key_values=cache)
    print(cache.memory())

compress        a cache that compresses the prompt by a method, for model.generate
detach          gives a model back the attention implementation it had
attach          makes a model read compressed caches that were made elsewhere (unpickled ones)
get_method      a Method by name, with its hyper-parameters; METHODS: all of them
load_profile    head scores, curves or gates of a model, from a file of ours or a published one
load_cache      a cache that was written by its `save`, for the same model in another process
load_model      the embedded model, a known one, a local folder, a GGUF file, or a hub model at a pinned revision
CokvError       what every wrong input raises, in one line; Infeasible: a budget that a method cannot meet

Everything else is internal. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cokv.cache.attention.attachment import attach, detach
    from cokv.deployment.cache import CompressedCache
    from cokv.deployment.compress import compress
    from cokv.deployment.memory import CacheMemory
    from cokv.deployment.saved import load_cache
    from cokv.methods.method import Method
    from cokv.methods.registry import METHODS, get_method
    from cokv.model.loading import load_model
    from cokv.profiles.load import load_profile
    from cokv.types import CokvError, Infeasible

_HOMES = {
    "CacheMemory": "cokv.deployment.memory",
    "CokvError": "cokv.types",
    "CompressedCache": "cokv.deployment.cache",
    "Infeasible": "cokv.types",
    "METHODS": "cokv.methods.registry",
    "Method": "cokv.methods.method",
    "attach": "cokv.cache.attention.attachment",
    "compress": "cokv.deployment.compress",
    "detach": "cokv.cache.attention.attachment",
    "get_method": "cokv.methods.registry",
    "load_cache": "cokv.deployment.saved",
    "load_model": "cokv.model.loading",
    "load_profile": "cokv.profiles.load",
}

__all__ = [
    "METHODS",
    "CacheMemory",
    "CokvError",
    "CompressedCache",
    "Infeasible",
    "Method",
    "attach",
    "compress",
    "detach",
    "get_method",
    "load_cache",
    "load_model",
    "load_profile",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cokv' has no attribute {name!r}; public: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
