"""What surrounds a needle: repeated noise, essay text, or other needles. Returns sentences; knows nothing of tokens or
lengths.

The essay is either text the user names (a folder of .txt files, read from its start as RULER does) or, offline,
sentences that are *generated* here from small word lists. Generated text is grammatical but meaningless: it stands in
for essays, and the notes of every record name it.

Facts follow NVIDIA/RULER `scripts/data/synthetic/niah.py`. Differs: the unit of noise and essay is a sentence of ours,
not a paragraph of five or a word, so that a length is filled more closely and no sentence is cut.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path

from ruler import words
from ruler.errors import RulerError

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


def read_essays(folder: Path) -> list[str]:
    """All sentences of the folder's .txt files, in file-name order."""
    files = sorted(f for f in folder.glob("*.txt") if f.is_file()) if folder.is_dir() else []
    if not files:
        raise RulerError(
            f"no .txt file in the essay folder {folder}; put plain-text essays there or leave the essay folder unset"
        )
    sentences: list[str] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise RulerError(
                f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
            ) from None
        except OSError as error:
            raise RulerError(f"cannot read the essay {file} ({error.strerror}); check its permissions") from None
        sentences += [s for s in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if s]
    if not sentences:
        raise RulerError(f"the essay folder {folder} has only empty files; put plain-text essays there")
    return sentences


def essay(count: int, rng: random.Random, source: Sequence[str] | None) -> list[str]:
    """`count` sentences of the user's essays from their start (repeated when too few), or generated ones when there is
    no source.
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
