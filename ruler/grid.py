"""Needle in a haystack as a grid: one sentence hidden in essays, at chosen depths of prompts of chosen lengths.

The test RULER grew out of (gkamradt/LLMTest_NeedleInAHaystack), and the figure of many papers. A prompt is an
introduction, the essays' sentences with the needle among them, a question, and the beginning of the answer.
`length` counts the whole prompt and the answer's tokens, as RULER's does. The needle stands at the sentence break
nearest before its depth: 0 percent is in front of the first sentence, 100 behind the last one. The last sentence may be
cut, so that a prompt is as long as asked; essays shorter than the prompt are read again from their beginning.

Differs: the released scripts put about 200 tokens less than the length into the context and count nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle

from ruler.errors import RulerError
from ruler.sample import Draft

INTRO = "Read this text; a question about it follows.\n"


@dataclass(frozen=True)
class Needle:
    """sentence: what is hidden. question, prefix: what is asked, and how the answer begins. answer: how it goes on."""

    sentence: str
    question: str
    prefix: str
    answer: str


# Of the sentence that papers hide, only the facts are the test's; its wording is that of gkamradt's repository.
DOLORES_PARK = Needle(
    sentence="The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.",
    question="\nWhat is the best thing to do in San Francisco?",
    prefix=" The best thing to do in San Francisco is",
    answer=" eat a sandwich and sit in Dolores Park on a sunny day.",
)
# For the head game, which may not see what is asked in the test.
LIGHTHOUSE = Needle(
    sentence="The strangest thing to keep in a lighthouse is a bicycle that nobody rides and a piano without keys.",
    question="\nWhat is the strangest thing to keep in a lighthouse?",
    prefix=" The strangest thing to keep in a lighthouse is",
    answer=" a bicycle that nobody rides and a piano without keys.",
)


def hay(sentences: Sequence[str], words: int) -> list[str]:
    """The first so many words, as sentences; from the beginning again where there are no more."""
    taken: list[str] = []
    for sentence in cycle(sentences):
        if words < 1:
            break
        some = sentence.split()[:words]
        taken.append(" ".join(some))
        words -= len(some)
    return taken


def draft(needle: Needle, sentences: Sequence[str], depth: float) -> Draft:
    """The needle among these sentences. depth: percent of their words that stand before it, at most."""
    ends = accumulate(len(sentence.split()) for sentence in sentences)
    words = sum(len(sentence.split()) for sentence in sentences)
    before = sum(end <= words * depth / 100 for end in ends)
    text = " ".join([*sentences[:before], needle.sentence, *sentences[before:]])
    return Draft(INTRO + text, needle.question, needle.prefix, (needle.answer.strip(),), needle.answer)


def fitted(
    needle: Needle, essays: Sequence[str], depth: float, length: int, new_tokens: int, count: Callable[[Draft], int]
) -> Draft:
    """The longest prompt whose tokens, by `count`, and `new_tokens` make at most `length`. Raises RulerError."""
    room = length - new_tokens
    if count(draft(needle, [], depth)) > room:
        raise RulerError(
            f"a needle's question alone takes more than {length} tokens, {new_tokens} of them for the answer; "
            "choose a longer length"
        )
    fits, fails = 0, 64  # words
    while count(draft(needle, hay(essays, fails), depth)) <= room:
        fits, fails = fails, fails * 2
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if count(draft(needle, hay(essays, middle), depth)) <= room:
            fits = middle
        else:
            fails = middle
    return draft(needle, hay(essays, fits), depth)


def score(prediction: str, references: Sequence[str]) -> float:
    """Percent of a reference's distinct words that the prediction has, in lower case; the best reference counts.

    Released code: nawei1010/CoKV, experiments/needle/needle_inference.py (and PyramidKV's script before it).
    """
    found = set(prediction.lower().split())
    return max(100 * len(found & words) / len(words) for words in (set(r.lower().split()) for r in references))
