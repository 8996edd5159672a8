"""Few-shot sets: items whose class only the examples tell, and passages with a question. `size` counts examples."""

from __future__ import annotations

import random

from longbench.mini import words
from longbench.mini.text import Draft, Query, sentence


def trec(size: int, rng: random.Random) -> Draft:
    """The class of an item is drawn anew in every prompt: an example shows it, nothing else knows it."""
    every = (*words.KEYS, *words.NAMES)
    items = rng.sample(every, min(max(size, 2), len(every)))
    labels = [rng.choice(words.CLASSES) for _ in items]
    lines = [f"Type of {item}: {label}" for item, label in zip(items, labels, strict=True)]
    chosen = rng.sample(range(len(items)), min(len(items), 8))
    queries = [Query(f"Type of {items[i]}:", (labels[i],), f" {labels[i]}\n") for i in chosen]
    return Draft("\n".join(lines), tuple(queries), words.CLASSES)


def triviaqa(size: int, rng: random.Random) -> Draft:
    keys = rng.sample(words.KEYS, min(max(size, 1), 60) + 1)
    shown = [_question(key, rng) for key in keys]
    context = "\n".join(query.input + query.gold.rstrip("\n") for query in shown[1:])
    return Draft(context, (shown[0],))


def _question(key: str, rng: random.Random) -> Query:
    name = f"{rng.choice(words.NAMES)} the {rng.choice(words.ADJECTIVES)} {rng.choice(words.PEOPLE)}"
    parts = [f"The {key} was built by {name}.", sentence(rng)]
    rng.shuffle(parts)
    cue = f"Passage: {' '.join(parts)}\nAnswer: The {key} was built by"
    return Query(cue, (name,), f" {name}.\n")
