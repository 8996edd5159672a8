"""The table of methods by name, and a method by name out of it. Its rows: cokv/methods/table/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from cokv.methods.entries import POLICIES, MethodEntry, Preset, unknown
from cokv.methods.method import Method, ScoreCache
from cokv.methods.plugins import is_outside, outside_entry
from cokv.methods.table import ROWS
from cokv.types import CokvError

__all__ = [
    "METHODS",
    "POLICIES",
    "Method",
    "MethodEntry",
    "Preset",
    "ScoreCache",
    "describe_methods",
    "get_entry",
    "get_method",
]


def get_entry(name: str) -> MethodEntry:
    """A row of the table, or one made for `package.module:Class` and `kvpress:Press`."""
    if is_outside(name):
        return outside_entry(name)
    if name not in METHODS:
        raise CokvError(unknown("method", name, METHODS))
    return METHODS[name]


def get_method(name: str, preset: str = "normalized", **params: Any) -> Method:
    """A method by name, e.g. get_method("snapkv", window_size=8). Parameters: get_entry(name).parameters(preset)."""
    entry = get_entry(name)
    chosen = entry.preset(preset)
    known = chosen.parameters()
    for param in params:
        if param not in known:
            raise CokvError(f"{name}: {unknown('parameter', param, known)}")
    try:
        scorer, allocator = (_replaced(part, params) for part in (chosen.scorer, chosen.allocator))
    except CokvError as error:
        raise CokvError(f"{name}: {error}") from None
    return Method(
        name=name,
        title=entry.title,
        preset=preset,
        scorer=scorer,
        allocator=allocator,
        policy=entry.policy_of(preset),
        profile=entry.profile,
        profile_kinds=entry.profile_kinds,
        paper=entry.paper,
        note=chosen.note,
        source=chosen.source,
        decoding=tuple((key, params.get(key, value)) for key, value in chosen.decoding),
    )


def describe_methods() -> list[dict[str, str]]:
    """One row per method and preset, for a table on the screen."""
    return [
        {
            "name": entry.name,
            "title": entry.title,
            "preset": preset,
            "scorer": type(chosen.scorer).__name__ if chosen.scorer else "none",
            "allocator": type(chosen.allocator).__name__ if chosen.allocator else "none",
            "policy": entry.policy_of(preset),
            "needs": entry.needs(preset),
            "parameters": ", ".join(f"{key}={value}" for key, value in chosen.parameters().items()),
            "paper": entry.paper,
            "code": entry.code,
            "note": chosen.note,
        }
        for entry in METHODS.values()
        for preset, chosen in entry.presets.items()
    ]


def _replaced(part: Any, params: Mapping[str, Any]) -> Any:
    if part is None:
        return None
    return replace(part, **{field.name: params[field.name] for field in fields(part) if field.name in params})


METHODS: Mapping[str, MethodEntry] = MappingProxyType(
    {row.name: replace(row, presets=MappingProxyType(dict(row.presets))) for row in ROWS}
)
