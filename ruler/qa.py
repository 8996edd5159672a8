"""Question answering among distractor documents: `qa_1` (one document) and `qa_2` (two), arXiv 2404.06654, section 3.4.

With the user's own SQuAD / HotpotQA file the questions are real; offline they come from small *generated* worlds of people, homes
and pets, and every record says so (`qa = "generated"`).
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruler import words
from ruler.errors import RulerError
from ruler.sample import Draft


@dataclass(frozen=True)
class Question:
    """A question, its accepted answers, the documents that hold them, and other documents to mix in."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]
    prefix: str | None = None
    gold: str | None = None


def generated_world(size: int, hops: int, rng: random.Random) -> tuple[Question, list[str]]:
    """A question over `size` people (at least hops + 1) and the documents about the people it does not need."""
    names = rng.sample(words.NAMES, min(max(size, hops + 1), len(words.NAMES)))
    pick = rng.choice
    homes = {n: f"the {pick(words.ADJECTIVES)} {pick(words.MATERIALS)} {pick(words.BUILDINGS)}" for n in names}
    pets = {n: f"a {pick(words.ADJECTIVES)} {pick(words.COLORS)} {pick(words.ANIMALS)}" for n in names}
    friends = {n: pick([m for m in names if m != n]) for n in names}
    documents = {
        n: " ".join(rng.sample([f"{n} lives in {homes[n]}.", f"{n} has {pets[n]}.", f"The friend of {n} is {friends[n]}."], 3))
        for n in names
    }
    person = names[0]
    needed = [person] if hops == 1 else [person, friends[person]]
    answered = needed[-1]
    home = rng.random() < 0.5
    verb, answer = ("lives in", homes[answered]) if home else ("has", pets[answered])
    whom = person if hops == 1 else f"the friend of {person}"
    question = f"Where does {whom} live?" if home else f"Which pet does {whom} have?"
    if hops == 1:
        prefix, gold = f" {person} {verb}", f" {answer}."
    else:
        prefix, gold = f" The friend of {person} is", f" {answered}. {answered} {verb} {answer}."
    asked = Question(question, (answer,), tuple(documents[n] for n in needed), prefix, gold)
    return asked, [documents[n] for n in names if n not in needed]


def build(
    params: dict[str, Any],
    size: int,
    rng: random.Random,
    wording: dict[str, Any],
    questions: Sequence[tuple[Question, list[str]]] | None,
) -> Draft:
    """`size` counts distractor documents; all documents are shuffled."""
    text = wording["qa"]
    if questions is None:
        asked, others = generated_world(size + params["hops"], params["hops"], rng)
    else:
        asked, others = questions[rng.randrange(len(questions))]
        if size > len(others):
            pool = [d for q, _ in questions for d in q.documents if d not in asked.documents]
            others = others + rng.sample(pool, min(size - len(others), len(pool)))
    documents = [*asked.documents, *others[:size]]
    rng.shuffle(documents)
    lines = [text["document"].format(index=i, text=d) for i, d in enumerate(documents, 1)]
    return Draft(
        context=text["intro"] + text["join"].join(lines),
        question=text["question"].format(question=asked.text),
        answer_prefix=asked.prefix or text["prefix"],
        outputs=asked.answers,
        gold=asked.gold or text["gold"].format(answer=asked.answers[0]),
    )


def read_questions(path: Path) -> list[tuple[Question, list[str]]]:
    """Questions of a SQuAD v1/v2 file (`data/paragraphs/qas`) or a HotpotQA file (list of `question, answer, context`)."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return _squad(raw) if isinstance(raw, dict) else _hotpot(raw)
    except FileNotFoundError:
        raise RulerError(f"no question file {path}; name a SQuAD or HotpotQA JSON file") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RulerError(f"{path} is neither SQuAD nor HotpotQA JSON ({type(error).__name__}: {error})") from None


def _squad(raw: dict[str, Any]) -> list[tuple[Question, list[str]]]:
    found = []
    for article in raw["data"]:
        passages = [p["context"] for p in article["paragraphs"]]
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = tuple(dict.fromkeys(a["text"] for a in qa["answers"]))
                if answers and not qa.get("is_impossible", False):
                    others = [p for p in passages if p != paragraph["context"]]
                    found.append((Question(qa["question"], answers, (paragraph["context"],)), others))
    if not found:
        raise ValueError("no answerable question")
    return found


def _hotpot(raw: list[dict[str, Any]]) -> list[tuple[Question, list[str]]]:
    found = []
    for item in raw:
        documents = {title: f"{title}\n{''.join(sentences)}" for title, sentences in item["context"]}
        needed = {title for title, _ in item["supporting_facts"]}
        gold = tuple(d for t, d in documents.items() if t in needed)
        found.append((Question(item["question"], (item["answer"],), gold), [d for t, d in documents.items() if t not in needed]))
    if not found:
        raise ValueError("no question")
    return found
