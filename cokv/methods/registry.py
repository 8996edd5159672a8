"""The registry: all methods by name, from the rows in cokv/methods/table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cokv.methods.method import NORMALIZED, Method
from cokv.methods.plugins import is_plugin, plugin_method
from cokv.methods.table import ROWS
from cokv.methods.words import unknown
from cokv.types import CokvError

METHODS: Mapping[str, Method] = MappingProxyType({row.name: row for row in ROWS})


def get_method(name: str | Method, preset: str = NORMALIZED, **params: Any) -> Method:
    """A method by name, e.g. get_method("snapkv", window_size=8); get_method(name).parameters lists its parameters.

    name: a row of the registry, `package.module:Class` for your own scorer, `kvpress:Press`, or a Method.
    """
    if isinstance(name, Method):
        method = name
    elif is_plugin(name):
        method = plugin_method(name)
    elif name in METHODS:
        method = METHODS[name]
    else:
        raise CokvError(unknown("method", name, METHODS))
    method = method if isinstance(name, Method) and preset == NORMALIZED else method.with_preset(preset)
    return method.with_parameters(**params) if params else method


def describe_methods() -> list[dict[str, str]]:
    """One row per method and preset, for display."""
    return [
        {
            "name": method.name,
            "title": method.title,
            "preset": f"{preset} (ours)" if method.ours else preset,
            "scorer": type(method.scorer).__name__ if method.scorer else "none",
            "allocator": type(method.allocator).__name__ if method.allocator else "none",
            "policy": type(method.policy).__name__,
            "needs": method.needs,
            "while decoding": method.policy.does or "append each new token",
            "deploys": "after cache.prefill" if method.reads_prompt_again else "yes",
            "parameters": ", ".join(f"{key}={value}" for key, value in method.parameters.items()),
            "set by": _owners(method),
            "paper": method.paper,
            "code": method.code,
            "note": method.note + "".join(f"; the tokens of {k} {v}" for k, v in method.coincides.items()),
        }
        for row in METHODS.values()
        for preset, method in ((name, row.with_preset(name)) for name in (NORMALIZED, *row.presets))
    ]


def _owners(method: Method) -> str:
    """Parameters by who sets them: the paper, an experiment, the budget contract."""
    by_owner: dict[str, list[str]] = {}
    for name in method.parameters:
        by_owner.setdefault(method.owner(name), []).append(name)
    return "; ".join(f"{owner}: {', '.join(names)}" for owner, names in sorted(by_owner.items(), reverse=True))
