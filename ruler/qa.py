"""Question answering among distractor documents: `qa_1` (one document) and `qa_2` (two), arXiv 2404.06654, section 3.4.

With the user's own SQuAD / HotpotQA file the questions are real; offline they come from small *generated* worlds of
people, homes and pets, as the notes of every record state.

Facts follow NVIDIA/RULER `scripts/data/synthetic/qa.py`: sample i asks the file's question i; the documents near the
question (its article, or HotpotQA's own distractors) come before those of other questions; all documents are shuffled.
Differs: a HotpotQA prompt too short for all ten documents keeps the needed ones and some distractors, where the
official generator would try for ever; an index past the last question begins again, with other distractors.
"""

import random
from dataclasses import dataclass
from typing import Any

from ruler import lexicon, words
from ruler.niah import distinct
from ruler.sample import Draft


@dataclass(frozen=True)
class Question:
    """A question, its accepted answers, the documents that hold them, and the documents near to it (indices of a
    QuestionSet).
    """

    text: str
    answers: tuple[str, ...]
    needed: tuple[int, ...]
    near: tuple[int, ...]


@dataclass(frozen=True)
class QuestionSet:
    """Questions in the file's order over its distinct documents."""

    questions: tuple[Question, ...]
    documents: tuple[str, ...]

    def draw(self, size: int, rng: random.Random, index: int | None) -> tuple[Question, list[str]]:
        """Question `index` and its documents with up to `size` others, the near ones first; unshuffled.

        Any question when `index` is None; past the last begin again, below 0 count from the end.
        """
        question = self.questions[rng.randrange(len(self.questions)) if index is None else index % len(self.questions)]
        distractors = rng.sample(question.near, min(size, len(question.near)))
        if size > len(distractors):
            relevant = {*question.needed, *question.near}
            far = [i for i in range(len(self.documents)) if i not in relevant]
            distractors += rng.sample(far, min(size - len(distractors), len(far)))
        return question, [self.documents[i] for i in (*question.needed, *distractors)]


@dataclass(frozen=True)
class GeneratedWorld:
    """A generated question: its answer, an answer prefix and a gold answer that go with it, and all documents."""

    question: str
    answer: str
    prefix: str
    gold: str
    needed: tuple[str, ...]
    distractors: tuple[str, ...]


def largest_world(params: dict[str, Any]) -> int:
    """Most people that a generated world can have beside those of the question."""
    people = lexicon.PEOPLE // 2 if params.get("surnames") else len(words.NAMES)
    return people - int(params["hops"])


def generated_world(size: int, hops: int, rng: random.Random, surnames: bool = False) -> GeneratedWorld:
    """A question over `size` people (at least hops + 1), each with one document about their home, pet and friend."""
    count = max(size, hops + 1)
    if surnames:
        names = distinct(lexicon.person, count, rng, set())
    else:
        names = rng.sample(words.NAMES, min(count, len(words.NAMES)))
    pick = rng.choice
    homes = {n: f"the {pick(words.ADJECTIVES)} {pick(words.MATERIALS)} {pick(words.BUILDINGS)}" for n in names}
    pets = {n: f"a {pick(words.ADJECTIVES)} {pick(words.COLORS)} {pick(words.ANIMALS)}" for n in names}
    friends = {n: names[_other(i, len(names), rng)] for i, n in enumerate(names)}
    documents = {
        n: " ".join(
            rng.sample([f"{n} lives in {homes[n]}.", f"{n} has {pets[n]}.", f"The friend of {n} is {friends[n]}."], 3)
        )
        for n in names
    }
    person = names[0]
    needed = [person] if hops == 1 else [person, friends[person]]
    answered = needed[-1]
    home = rng.random() < 0.5
    verb, answer = ("lives in", homes[answered]) if home else ("has", pets[answered])
    subject = person if hops == 1 else f"the friend of {person}"
    question = f"Where does {subject} live?" if home else f"Which pet does {subject} have?"
    if hops == 1:
        prefix, gold = f" {person} {verb}", f" {answer}."
    else:
        prefix, gold = f" The friend of {person} is", f" {answered}. {answered} {verb} {answer}."
    distractors = tuple(documents[n] for n in names if n not in needed)
    return GeneratedWorld(question, answer, prefix, gold, tuple(documents[n] for n in needed), distractors)


def _other(i: int, count: int, rng: random.Random) -> int:
    """An index below `count` that is not `i`."""
    j = rng.randrange(count - 1)
    return j if j < i else j + 1


def build(
    params: dict[str, Any],
    size: int,
    rng: random.Random,
    wording: dict[str, Any],
    source: QuestionSet | None,
    index: int | None = None,
) -> Draft:
    """`size` counts distractor documents; all documents are shuffled.

    `plain`: the answer prefix holds nothing of the answer, as the official one. `surnames`: people enough for long
    prompts.
    """
    text = wording["qa"]
    prefix = text["prefix"]
    if source is None:
        world = generated_world(size + params["hops"], params["hops"], rng, params.get("surnames", False))
        question, answers = world.question, tuple([world.answer])
        documents = [*world.needed, *world.distractors[:size]]
        gold = text["gold"].format(answer=world.answer)
        if not params.get("plain"):
            prefix, gold = world.prefix, world.gold
    else:
        drawn, documents = source.draw(size, rng, index)
        question, answers = drawn.text, drawn.answers
        gold = text["gold"].format(answer=answers[0])
    rng.shuffle(documents)
    lines = [text["document"].format(index=i, text=d) for i, d in enumerate(documents, 1)]
    return Draft(
        context=text["intro"] + text["join"].join(lines),
        question=text["question"].format(question=question),
        answer_prefix=prefix,
        outputs=answers,
        gold=gold,
    )
