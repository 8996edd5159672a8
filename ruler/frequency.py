"""Aggregation: common words (`cwe`) and frequent coded words (`fwe`), arXiv 2404.06654, section 3.3.

Facts follow NVIDIA/RULER `scripts/data/synthetic/common_words_extraction.py` and `freq_words_extraction.py`; lists and
wording are ours.

Differs: common words may be adjective-noun compounds, since our lists are shorter; the words of the worked example do
not come again in the list; the coded words of the answer always differ in number (the official counts can tie in short
texts), and a coded text leaves room for its answer (the official one is fitted without it and can pass the length by
the tokens to generate).
"""

import functools
import random
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ruler import lexicon, words
from ruler.niah import distinct
from ruler.sample import Draft

# Every word of the small lists: what `mini` draws from.
VOCABULARY: tuple[str, ...] = tuple(
    sorted({*words.KEYS, *words.ADJECTIVES, *words.PEOPLE, *words.PLACES, *words.THINGS})
)


def _answer(text: dict[str, Any], outputs: Sequence[str]) -> str:
    return str(text["gold_join"]).join(text["gold_item"].format(word=w) for w in outputs) + str(text["gold_end"])


def _plain_word(compounds: bool, rng: random.Random) -> str:
    if not compounds:
        return rng.choice(VOCABULARY)
    if rng.random() < 0.5:
        return rng.choice(lexicon.WORDS)
    return lexicon.pair(rng)


def largest_cwe(params: dict[str, Any]) -> int:
    """How many uncommon words can be drawn beside the common ones and those of the example."""
    words_in_all = len(lexicon.WORDS) + lexicon.PAIRS if params["compounds"] else len(VOCABULARY)
    return words_in_all - int(params["num_cw"]) - int(params.get("example", {}).get("num_words", 0))


def build_cwe(
    params: dict[str, Any], size: int, rng: random.Random, wording: dict[str, Any], essays: Sequence[str] | None
) -> Draft:
    """`size` counts uncommon words: each occurs `freq_ucw` times, each of `num_cw` common ones `freq_cw` times,
    shuffled.

    `example`: `num_words`, `freq_cw` and `freq_ucw` of a worked example put before the list.
    """
    used: set[str] = set()
    worked = None
    if example := params.get("example"):
        worked = _list(params | example, example["num_words"] - params["num_cw"], rng, wording, used)
    draft = _list(params, size, rng, wording, used)
    return draft.after(worked) if worked else draft


def _list(params: dict[str, Any], size: int, rng: random.Random, wording: dict[str, Any], used: set[str]) -> Draft:
    text = wording["cwe"]
    common = distinct(lambda r: _plain_word(params["compounds"], r), params["num_cw"], rng, used)
    uncommon = distinct(lambda r: _plain_word(params["compounds"], r), size, rng, used)
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


def build_fwe(
    params: dict[str, Any], size: int, rng: random.Random, wording: dict[str, Any], essays: Sequence[str] | None
) -> Draft:
    """`size` counts drawn words. Ranks follow a zeta law (weights rank**-alpha); rank 1 is shown as dots, ranks 2-4 are
    the answer.

    Counts are the law's shares of `size`, rounded down. Those of the answer's ranks strictly fall, so it is
    never a tie. The official generator divides by the infinite sum of the law, which only rescales `size`.
    """
    text = wording["fwe"]
    coded = functools.partial(lexicon.invented, params["letters"], string.ascii_lowercase)
    vocabulary = distinct(coded, params["vocab_size"], rng, set())
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
