"""The Chinese sets that are not synthetic: questions on one text and over articles, a meeting, labelled news. `size`
counts sentences (lsht: news).
"""

from __future__ import annotations

import random

from longbench.mini import words
from longbench.mini.text import Draft, Query, cloze, sentence_zh, split, weave


def _names(count: int, rng: random.Random) -> list[str]:
    every = [a + b for a in words.ZH_SURNAMES for b in words.ZH_GIVEN]
    return rng.sample(every, count)


def _place(rng: random.Random) -> str:
    return rng.choice(words.ZH_DIRECTIONS) + rng.choice(words.ZH_PLACES)


def multifieldqa_zh(size: int, rng: random.Random) -> Draft:
    facts, filler = split(size, 12, rng)
    homes = {name: f"{_place(rng)}的{rng.choice(words.ZH_GOODS)}店" for name in _names(facts, rng)}
    lines = [f"{name}住在{home}。" for name, home in homes.items()]
    queries = [cloze(f"{name}住在", home, end="。", space="") for name, home in homes.items()]
    rng.shuffle(queries)
    return Draft(weave(lines, [sentence_zh(rng) for _ in range(filler)], rng, join=""), tuple(queries))


def dureader(size: int, rng: random.Random) -> Draft:
    facts, filler = split(size, 12, rng)
    origin = {goods: f"{_place(rng)}的{rng.choice(_names(3, rng))}家" for goods in rng.sample(words.ZH_GOODS, facts)}
    lines = [f"{goods}来自{where}。" for goods, where in origin.items()]
    queries = [Query(f"{goods}来自", (f"{where}。",), f"{where}。") for goods, where in origin.items()]
    rng.shuffle(queries)
    text = weave(lines, [sentence_zh(rng) for _ in range(filler)], rng, join="\n").split("\n")
    parts = ["".join(text[i : i + 4]) for i in range(0, len(text), 4)]
    return Draft("\n".join(f"文章{i}：{part}" for i, part in enumerate(parts, 1)), tuple(queries))


def vcsum(size: int, rng: random.Random) -> Draft:
    count = rng.randrange(2, 5)
    facts = []
    for mark in words.ZH_NUMBERS[:count]:
        deed = f"{rng.choice(words.ZH_DEEDS)}{rng.choice(words.ZH_GOODS)}"
        facts.append(f"决定{mark}：{_names(1, rng)[0]}去{_place(rng)}{deed}。")
    answer = "".join(facts)
    text = weave(facts, [sentence_zh(rng) for _ in range(max(0, size - count))], rng, join="")
    return Draft(text, (Query("", (answer,), answer),))


def lsht(size: int, rng: random.Random) -> Draft:
    """As in `trec`, only the examples tell the class of a person's news."""
    people = _names(min(max(size, 2), 200), rng)
    labels = [rng.choice(words.ZH_CLASSES) for _ in people]
    lines = [f"新闻：{name}是{label}" for name, label in zip(people, labels, strict=True)]
    chosen = rng.sample(range(len(people)), min(len(people), 8))
    queries = [Query(f"新闻：{people[i]}是", (labels[i],), f"{labels[i]}\n") for i in chosen]
    return Draft("\n".join(lines), tuple(queries), words.ZH_CLASSES)
