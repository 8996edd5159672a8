"""Aggregation: common words (`cwe`) and frequent coded words (`fwe`), arXiv 2404.06654, section 3.3.

Facts follow NVIDIA/RULER `common_words_extraction.py` and `freq_words_extraction.py`; lists and wording are ours.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ruler import words
from ruler.niah import distinct
from ruler.sample import Draft

# RULER draws common words from a large noun list; ours is every word we have. Two-word compounds extend it when a list runs out.
VOCABULARY = tuple(sorted({*words.KEYS, *words.ADJECTIVES, *words.PEOPLE, *words.PLACES, *words.THINGS}))


def _answer(text: dict[str, Any], outputs: Sequence[str]) -> str:
    return text["gold_join"].join(text["gold_item"].format(word=w) for w in outputs) + text["gold_end"]


def _plain_word(compounds: bool, rng: random.Random) -> str:
    plain = not compounds or rng.random() < 0.5
    return rng.choice(VOCABULARY) if plain else f"{rng.choice(words.ADJECTIVES)}-{rng.choice(words.KEYS)}"


def build_cwe(
    params: dict[str, Any], size: int, rng: random.Random, wording: dict[str, Any], essays: Sequence[str] | None
) -> Draft:
    """`size` counts uncommon words: each occurs `freq_ucw` times, each of `num_cw` common ones `freq_cw` times, shuffled."""
    text = wording["cwe"]
    taken: set[str] = set()
    common = distinct(lambda r: _plain_word(params["compounds"], r), params["num_cw"], rng, taken)
    uncommon = distinct(lambda r: _plain_word(params["compounds"], r), size, rng, taken)
    listed = common * params["freq_cw"] + uncommon * params["freq_ucw"]
    rng.shuffle(listed)
    item = text["item"] if params["numbered"] else text["item_plain"]
    lines = [item.format(index=i, word=w) for i, w in enumerate(listed, 1)]
    gold = sorted(common, key=listed.index)
    return Draft(
        context=text["intro"] + text["join"].join(lines),
        question=text["question"].format(n=len(common)),
        answer_prefix=text["prefix"],
        outputs=tuple(common),
        gold=_answer(text, gold),
    )


def _coded_word(letters: int, rng: random.Random) -> str:
    if letters:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(letters))
    return rng.choice(words.BOXES)


def build_fwe(
    params: dict[str, Any], size: int, rng: random.Random, wording: dict[str, Any], essays: Sequence[str] | None
) -> Draft:
    """`size` counts drawn words. Ranks follow a zeta law (weights rank**-alpha); rank 1 is shown as dots, ranks 2-4 are asked for.

    Counts of the asked ranks are exact shares of the law and strictly fall, so the right answer is never a tie.
    """
    text = wording["fwe"]
    vocabulary = distinct(lambda r: _coded_word(params["letters"], r), params["vocab_size"], rng, set())
    weights = np.arange(1, len(vocabulary) + 1, dtype=float) ** -params["alpha"]
    counts = np.floor(weights / weights.sum() * size).astype(int)
    drawn = [word for word, count in zip(vocabulary, counts, strict=True) for _ in range(count)]
    rng.shuffle(drawn)
    outputs = vocabulary[1:4]
    tally = Counter(drawn)
    if len({tally[w] for w in vocabulary[:5]}) < min(5, len(vocabulary)):
        outputs = []  # too small a text to have one answer: the fitting search must not stop here
    shown = [text["filler"] if w == vocabulary[0] else w for w in drawn]
    return Draft(
        context=text["intro"] + text["join"].join(shown),
        question=text["question"].format(n=3),
        answer_prefix=text["prefix"],
        outputs=tuple(outputs),
        gold=_answer(text, outputs),
    )
