"""The parts of a generated prompt, and the filler around its facts. Knows nothing of tokens, lengths or tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from longbench.mini import words


@dataclass(frozen=True)
class Query:
    """One question on a context: `input` as in the official schema, accepted answers, and `gold`, the full text a
    perfect model would write after the prompt.
    """

    input: str
    answers: tuple[str, ...]
    gold: str


@dataclass(frozen=True)
class Draft:
    """A context and at least one question on it: the first is the sample's, training may use all."""

    context: str
    queries: tuple[Query, ...]
    all_classes: tuple[str, ...] | None = None


def cloze(cue: str, answer: str, end: str = ".", space: str = " ") -> Query:
    """A sentence to be completed."""
    return Query(cue, (answer,), f"{space}{answer}{end}")


def sentence(rng: random.Random) -> str:
    """A filler sentence: grammatical, about nobody in particular, without a key or a number."""
    pick = rng.choice
    person = f"{pick(words.ADJECTIVES)} {pick(words.PEOPLE)}" if rng.random() < 0.6 else pick(words.PEOPLE)
    place = f"{pick(words.ADJECTIVES)} {pick(words.PLACES)}" if rng.random() < 0.6 else pick(words.PLACES)
    what = f"{pick(words.ADJECTIVES)} {pick(words.THINGS)}"
    forms = (
        f"The {person} {pick(words.VERBS_MOVE)} {pick(words.PREPOSITIONS)} the {place}.",
        f"The {person} {pick(words.VERBS_ACT)} the {what} in the {place}.",
        f"In the {pick(words.TIMES)} the {person} {pick(words.VERBS_ACT)} {article(what)}.",
        f"There is {article(what)} {pick(words.PREPOSITIONS)} the {place}.",
    )
    return pick(forms)


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence_zh(rng: random.Random) -> str:
    pick = rng.choice
    place = pick(words.ZH_DIRECTIONS) + pick(words.ZH_PLACES)
    return pick(
        (
            f"{pick(words.ZH_WEATHER)}{place}下雨了。",
            f"{pick(words.ZH_WEATHER)}人们去{place}看花。",
            f"{place}有一条小路。",
            f"{place}的风很大。",
        )
    )


def weave(facts: Sequence[str], filler: Sequence[str], rng: random.Random, join: str = " ") -> str:
    """Facts in their order, at random places among the filler."""
    places = sorted(rng.randrange(len(filler) + 1) for _ in facts)
    parts = list(filler)
    for place, fact in reversed(list(zip(places, facts, strict=True))):
        parts.insert(place, fact)
    return join.join(parts)


def number(rng: random.Random) -> str:
    """Four digits, the first not zero."""
    return str(rng.randrange(1000, 10_000))


def home(rng: random.Random) -> str:
    return f"the {rng.choice(words.ADJECTIVES)} {rng.choice(words.MATERIALS)} {rng.choice(words.BUILDINGS)}"


def noun_phrase(rng: random.Random) -> str:
    return f"the {rng.choice(words.ADJECTIVES)} {rng.choice(words.THINGS)}"


def split(size: int, most: int, rng: random.Random) -> tuple[int, int]:
    """`size` units as (facts, filler): two facts at least, `most` at most."""
    facts = min(rng.randrange(2, most + 1), max(size, 2))
    return facts, max(0, size - facts)
