"""Question answering on one text and over several passages, as sentences to be completed.

`size` counts sentences. Every context holds facts of the same kind about others, so that only the right key leads to
the answer; the multi-passage sets need a second (musique: a third) fact to go on.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from longbench.mini import words
from longbench.mini.text import Draft, Query, article, cloze, home, noun_phrase, number, sentence, split, weave


def narrativeqa(size: int, rng: random.Random) -> Draft:
    facts, filler = split(size, 10, rng)
    queries, lines = [], []
    for name in rng.sample(words.NAMES, facts):
        for verb in rng.sample(("hid", "lost", "sold"), 2):
            what = f"{noun_phrase(rng)} in the {rng.choice(words.PLACES)}"
            lines.append(f"{name} {verb} {what}.")
            queries.append(cloze(f"{name} {verb}", what))
    rng.shuffle(lines)
    return _draft(lines, filler, queries, rng)


def qasper(size: int, rng: random.Random) -> Draft:
    return _keyed(size, rng, "The accuracy of {} is", lambda: f"{number(rng)} points")


def multifieldqa_en(size: int, rng: random.Random) -> Draft:
    def who() -> str:
        return f"{rng.choice(words.NAMES)} from the {rng.choice(words.ADJECTIVES)} {rng.choice(words.PLACES)}"

    return _keyed(size, rng, "The contract of {} names", who)


def hotpotqa(size: int, rng: random.Random) -> Draft:
    facts, filler = split(size // 2, 8, rng)
    names = rng.sample(words.NAMES, facts + 1)
    homes = {name: home(rng) for name in names}
    pairs = list(itertools.pairwise(names))
    lines = [f"The friend of {a} is {b}." for a, b in pairs] + [f"{n} lives in {homes[n]}." for n in names]
    queries = [cloze(f"The friend of {a} is", f"{b}. {b} lives in {homes[b]}") for a, b in pairs]
    return _passages(lines, 2 * filler, queries, rng)


def two_wiki(size: int, rng: random.Random) -> Draft:
    facts, filler = split(size // 2, 8, rng)
    names, keys = rng.sample(words.NAMES, facts), rng.sample(words.KEYS, facts)
    work = {n: article(f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.PEOPLE)}") for n in names}
    owners = list(zip(keys, names, strict=True))
    lines = [f"The owner of the {key} is {name}." for key, name in owners]
    lines += [f"{name} works as {work[name]}." for name in names]
    queries = [cloze(f"The owner of the {key} is", f"{name}. {name} works as {work[name]}") for key, name in owners]
    return _passages(lines, 2 * filler, queries, rng)


def musique(size: int, rng: random.Random) -> Draft:
    chains, filler = split(size // 4, 4, rng)
    names = rng.sample(words.NAMES, 4 * chains)
    lines, queries = [], []
    for i in range(0, len(names), 4):
        a, b, c, d = names[i : i + 4]
        lines += [f"{a} asks {b}.", f"{b} asks {c}.", f"{c} asks {d}."]
        queries.append(cloze(f"{a} asks", f"{b}. {b} asks {c}. {c} asks {d}"))
    return _passages(lines, 4 * filler, queries, rng)


def _keyed(size: int, rng: random.Random, begins: str, value: Callable[[], str]) -> Draft:
    """One fact per key: how its sentence begins, and what it ends with."""
    facts, filler = split(size, 14, rng)
    queries, lines = [], []
    for key in rng.sample(words.KEYS, facts):
        begun, end = begins.format(key), value()
        lines.append(f"{begun} {end}.")
        queries.append(cloze(begun, end))
    return _draft(lines, filler, queries, rng)


def _draft(lines: list[str], filler: int, queries: list[Query], rng: random.Random) -> Draft:
    rng.shuffle(queries)
    return Draft(weave(lines, [sentence(rng) for _ in range(filler)], rng), tuple(queries))


def _passages(lines: list[str], filler: int, queries: list[Query], rng: random.Random) -> Draft:
    """Numbered passages of a few sentences; facts that belong together lie apart."""
    rng.shuffle(lines)
    rng.shuffle(queries)
    text = weave(lines, [sentence(rng) for _ in range(filler)], rng, join="\n").split("\n")
    parts = [" ".join(text[i : i + 5]) for i in range(0, len(text), 5)]
    return Draft("\n".join(f"Passage {i}: {part}" for i, part in enumerate(parts, 1)), tuple(queries))
