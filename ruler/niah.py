"""Needles in a haystack: RULER's eight niah tasks (arXiv 2404.06654, section 3.1). One builder for all.

Facts follow NVIDIA/RULER `scripts/data/synthetic/niah.py`; the wording is ours (wording.toml).

Differs: all keys and values of a prompt are distinct (the official draws may collide, which makes a second right
answer), and the references are listed in the order of the text, not of the draw (the metric ignores the order).
"""

import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from ruler import haystack, lexicon, words
from ruler.errors import RulerError
from ruler.sample import Draft

MISSES = 100_000  # draws in a row that bring nothing new, after which a word list counts as used up


def value(kind: str, rng: random.Random) -> str:
    """A number of seven digits, a word, or a uuid (random, version 4)."""
    if kind == "numbers":
        return str(rng.randint(1_000_000, 9_999_999))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return key("words", rng)


def key(kind: str, rng: random.Random) -> str:
    """`word`: one word (mini); `words`: adjective-noun, as the official generator; `numbers`; `uuids`."""
    if kind == "word":
        return rng.choice(words.KEYS)
    if kind == "words":
        return lexicon.pair(rng)
    return value(kind, rng)


def distinct(make: Callable[[random.Random], str], count: int, rng: random.Random, used: set[str]) -> list[str]:
    """`count` values of `make(rng)` that differ from each other and from `used`, which is extended.

    Raises after MISSES repeats in a row, instead of drawing for ever.
    """
    values: list[str] = []
    misses = 0
    while len(values) < count:
        item = make(rng)
        if item not in used:
            used.add(item)
            values.append(item)
            misses = 0
        elif (misses := misses + 1) > MISSES:
            raise RulerError(f"only {len(values)} distinct words could be drawn, expected {count}; ask for fewer")
    return values


def build(
    params: dict[str, Any], size: int, rng: random.Random, wording: dict[str, Any], essays: Sequence[str] | None
) -> Draft:
    """`size` counts haystack sentences. Needles go to distinct random places between them, in random order."""
    text = wording["niah"]
    key_kind, value_kind = params["type_needle_k"], params["type_needle_v"]
    num_k = max(params["num_needle_k"], params["num_needle_q"])
    num_v, num_q = params["num_needle_v"], params["num_needle_q"]
    kind = text["kinds"][value_kind]

    used: set[str] = set()
    keys = distinct(lambda r: key(key_kind, r), num_k, rng, used)
    values = [distinct(lambda r: value(value_kind, r), num_v, rng, used) for _ in keys]
    needles = [(i, v, text["needle"].format(kind=kind, key=keys[i], value=v)) for i in range(num_k) for v in values[i]]
    rng.shuffle(needles)

    if params["type_haystack"] == "noise":
        sentences = haystack.noise(size)
    elif params["type_haystack"] == "essay":
        sentences = haystack.essay(size, rng, essays)
    else:
        other_keys = distinct(lambda r: key(key_kind, r), size, rng, used) if size else []
        sentences = [
            text["needle"].format(kind=kind, key=k, value=distinct(lambda r: value(value_kind, r), 1, rng, used)[0])
            for k in other_keys
        ]
    places = haystack.places(len(needles), len(sentences), rng, params.get("places", "any"))
    order: list[tuple[int, str]] = []
    for place, (i, v, sentence) in reversed(list(zip(places, needles, strict=True))):
        sentences.insert(place, sentence)
        order.insert(0, (i, v))

    queries = rng.sample(range(num_k), num_q)
    context = text["intro"].format(kind=kind) + " ".join(sentences)
    answers = [(keys[i], v) for i in queries for j, v in order if j == i]  # per query, in order of appearance
    outputs = tuple(v for _, v in answers)
    if len(answers) == 1:
        query = keys[queries[0]]
        question = text["question"].format(kind=kind, query=query)
        return Draft(
            context,
            question,
            text["prefix"].format(kind=kind, query=query),
            outputs,
            text["gold"].format(value=outputs[0]),
        )
    names = [keys[i] for i in queries]
    query = names[0] if num_q == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    items = [text["golds_item"].format(query=k, value=v) for k, v in answers]
    gold = text["golds_join"].join(items) + text["golds_end"]
    question = text["questions"].format(kind=kind, query=query)
    return Draft(context, question, text["prefixes"].format(kind=kind), outputs, gold)


def needle_span(context: str, value: str, wording: dict[str, Any]) -> tuple[int, int]:
    """Characters start..end of the sentence in `context` that says `value`, which occurs in it once."""
    template = wording["niah"]["needle"]
    opening, closing = template.partition("{")[0], template.rpartition("}")[2]
    place = context.index(value)
    return context.rindex(opening, 0, place), place + len(value) + len(closing)
