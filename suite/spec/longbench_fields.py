"""A published LongBench protocol with some of its fields changed: [longbench.fields].

A changed protocol is named so, `official (max_length=1800)`: its numbers are not the published protocol's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from longbench.presets import get_preset
from longbench.protocol import Protocol
from longbench.tasks import TASKS, V2
from suite.spec.part import nearest

ABOUT = ("name", "paper", "released", "note")  # say what a preset is; they change nothing
CHANGEABLE = [field.name for field in fields(Protocol) if field.name not in (*ABOUT, "first_token")]
BY_DATASET = ("max_new_tokens", "newline_stop", "cut_datasets")


def changed_protocol(name: str, changes: Mapping[str, Any]) -> Protocol:
    """The preset `name` with these fields. Raises ValueError for an unknown field or value.

    A table of names and values stands for pairs. `max_length` alone holds for every model: the preset's lengths by
    model are dropped.
    """
    preset = get_preset(name)
    values = {key: list(value.items()) if isinstance(value, Mapping) else value for key, value in changes.items()}
    for key in values:
        if key == "first_token":
            raise ValueError("fields.first_token: this choice is made for all benchmarks, as [protocol] first_token")
        if key not in CHANGEABLE:
            raise ValueError(f"fields.{key}: a protocol has no such field; {nearest(key, CHANGEABLE)}")
    if "max_length" in values and "max_lengths" not in values:
        values["max_lengths"] = ()
    try:
        whole = json.dumps({**asdict(preset), **values})
        changed = TypeAdapter(Protocol).validate_json(whole, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # the protocol's own check
            raise ValueError(f"fields: {first['msg'].removeprefix('Value error, ')}") from None
        key = str(first["loc"][0])
        hint = get_type_hints(Protocol)[key]
        raise ValueError(f"fields.{key}: got {changes.get(key)!r}, expected {_expected(hint)}") from None
    _check_datasets(changed)
    differing = {key: changes[key] for key in changes if getattr(changed, key) != getattr(preset, key)}
    if not differing:
        return changed
    return replace(changed, name=f"{name} ({', '.join(f'{key}={_text(differing[key])}' for key in sorted(differing))})")


def _check_datasets(protocol: Protocol) -> None:
    for key in BY_DATASET:
        value = getattr(protocol, key)
        for entry in value if isinstance(value, tuple) else ():
            name = entry if isinstance(entry, str) else entry[0]
            if name not in TASKS and name != V2.name:
                raise ValueError(f"fields.{key}: unknown data set {name!r}; {nearest(name, [*TASKS, V2.name])}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _expected(hint: Any) -> str:
    """What an experiment file may hold for a field of this type, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in arguments)
    if origin is UnionType:
        return " or ".join(_expected(part) for part in arguments if part is not NoneType)
    if origin is tuple:
        inner = arguments[0]
        if get_origin(inner) is tuple:
            return f"a table of names, each with {_expected(get_args(inner)[1])}"
        return f"a list, each {_expected(inner)}"
    return {bool: "true or false", int: "an integer", str: "a text"}[hint]
