"""What surrounds a needle: repeated noise, essay text, or other needles. Returns sentences; knows nothing of tokens or
lengths.

The essay is either real text (`essays.py`), read from its start as RULER does, or sentences that are *generated* here
from small word lists. Generated text is grammatical but meaningless: it stands in for essays, and the notes of every
record name it.

Facts follow NVIDIA/RULER `scripts/data/synthetic/niah.py`. Differs: the unit of noise and essay is a sentence of ours,
not a paragraph of five or a word, so that a length is filled more closely and no sentence is cut.
"""

import random
from collections.abc import Sequence

from ruler import words

DEPTHS = tuple(round(100 * i / 39) for i in range(40))  # percent of the text: where the official essay needles may lie

NOISE = ("The road was long.", "The water was cold.", "The sky was clear.", "On we went.", "There was no one there.")


def noise(count: int) -> list[str]:
    """`count` sentences of the repeated noise paragraph."""
    return [NOISE[i % len(NOISE)] for i in range(count)]


def generated_essay(count: int, rng: random.Random) -> list[str]:
    """`count` sentences from a small grammar over the word lists."""
    return [_sentence(rng) for _ in range(count)]


def _sentence(rng: random.Random) -> str:
    pick = rng.choice
    person = f"{pick(words.ADJECTIVES)} {pick(words.PEOPLE)}" if rng.random() < 0.6 else pick(words.PEOPLE)
    place = f"{pick(words.ADJECTIVES)} {pick(words.PLACES)}" if rng.random() < 0.6 else pick(words.PLACES)
    noun = f"{pick(words.ADJECTIVES)} {pick(words.THINGS)}" if rng.random() < 0.6 else pick(words.THINGS)
    move, act, where = pick(words.VERBS_MOVE), pick(words.VERBS_ACT), pick(words.PREPOSITIONS)
    forms = (
        f"The {person} {move} {where} the {place}.",
        f"A {person} {act} the {noun} in the {place}.",
        f"In the {pick(words.TIMES)} the {person} {act} a {noun}.",
        f"The {noun} was {pick(words.ADJECTIVES)} and {pick(words.ADJECTIVES)}.",
        f"Every {pick(words.TIMES)} a {person} {move} {where} the {place}.",
        f"There is a {noun} {where} the {place}.",
    )
    return pick(forms)


def essay(count: int, rng: random.Random, source: Sequence[str] | None) -> list[str]:
    """`count` sentences of the essays from their start (repeated when too few), or generated ones when there is no
    source.
    """
    if source is None:
        return generated_essay(count, rng)
    return [source[i % len(source)] for i in range(count)]


def places(count: int, sentences: int, rng: random.Random, how: str) -> list[int]:
    """Where `count` sentences are inserted between `sentences` others: gaps in ascending order.

    `any`: every gap alike, shared ones allowed. `distinct`: different gaps, never the last one (official noise and
    needle haystacks). `depths`: different ones of 40 evenly spaced depths (official essays). A haystack too small for
    its rule takes any gap, where the official generator would fail and try again for ever.
    """
    if how == "depths" and count <= len(DEPTHS):
        return sorted(int(sentences * depth / 100) for depth in rng.sample(DEPTHS, count))
    if how == "distinct" and count <= sentences:
        return sorted(rng.sample(range(sentences), count))
    return sorted(rng.randrange(sentences + 1) for _ in range(count))
