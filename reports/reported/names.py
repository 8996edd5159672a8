"""Published names of methods, models and budgets, and what is the same here: `names.toml`.

Does not know: whether two methods of one name do the same in detail. `sources.toml` states what is known of that.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from reports.kv_budget import Budget, is_budget
from reports.reported.table import FULL_BUDGET

# What a file name adds to a model's: the format, and how its weights are stored.
_FORMAT = re.compile(r"\.(gguf|safetensors)$", re.IGNORECASE)
_QUANTIZATION = re.compile(r"[-_.](I?Q\d\w*|F16|F32|BF16|AWQ|GPTQ\S*|bnb-\S+|4bit|8bit|INT[48]|FP8\S*)$", re.IGNORECASE)


@dataclass(frozen=True)
class PublishedMethod:
    """ours: this project's methods that do the same, none where it has no such method. aliases: other words for it."""

    ours: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedModel:
    """names: last parts of hub names, folders and files that mean this model. version: what the source leaves open.
    mha: whether each query head has a KV head of its own.
    """

    names: tuple[str, ...] = ()
    version: str = ""
    mha: bool = False


def key(text: str) -> str:
    """What two spellings of one name have in common: letters and digits, without case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


@cache
def _names() -> Mapping[str, Any]:
    text = files("reports.reported").joinpath("names.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def methods() -> Mapping[str, PublishedMethod]:
    """By the source's word."""
    return {word: PublishedMethod(**_tuples(entry)) for word, entry in _names()["methods"].items()}


@cache
def models() -> Mapping[str, PublishedModel]:
    """By the source's word; a model that is not there has no name here."""
    return {word: PublishedModel(**_tuples(entry)) for word, entry in _names()["models"].items()}


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}


def method_words(published: str) -> tuple[str, ...]:
    """All words that mean a published method: the source's, ours, and others."""
    method = methods().get(published, PublishedMethod())
    return (published, *method.ours, *method.aliases)


def kv_budget_of(published: str) -> Budget | str:
    """A published budget as records here state it: slots, a share that stays, None for the full cache.

    The source's own word where it is none of these.
    """
    word = _names()["budgets"].get(published, published)
    if word == FULL_BUDGET:
        return None
    return int(word) if word.isascii() and word.isdigit() else str(word)


def is_comparable(published: str) -> bool:
    """Whether a run here can have this budget."""
    return is_budget(kv_budget_of(published))


def model_name(path: str) -> tuple[str, str]:
    """(the name of a model, how its weights are stored) of a hub name, folder or file; "" for weights as published."""
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    stored = "GGUF" if name.lower().endswith(".gguf") else ""
    name = _FORMAT.sub("", name)
    match = _QUANTIZATION.search(name)
    return (name[: match.start()], match.group(1)) if match else (name, stored)


@cache
def same_models(path: str) -> tuple[str, ...]:
    """The published models that a hub name, folder or file means."""
    name, _ = model_name(path)
    return tuple(word for word, model in models().items() if key(name) in map(key, model.names))


def nearest(value: str, known: Sequence[str]) -> str:
    """For an error: the closest of the known words, or all of them where there are few or none is close."""
    from difflib import get_close_matches

    by_key = {key(word): word for word in known}
    close = [by_key[match] for match in get_close_matches(key(value), list(by_key), 3, 0.5)]
    if close and len(by_key) > 12:
        return f"closest: {', '.join(close)}"
    words = sorted(by_key.values(), key=str.lower)
    shown = ", ".join(words[:40]) + (f" and {len(words) - 40} more" if len(words) > 40 else "")
    return (f"did you mean {close[0]}? " if close else "") + f"there is {shown}"
