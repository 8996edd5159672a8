"""Summaries with a known answer: the marked statements of a long text, in order; what one speaker promised; both
sides of a short dialogue. `size` counts sentences.
"""

from __future__ import annotations

import random

from longbench.mini import words
from longbench.mini.text import Draft, Query, noun_phrase, sentence, weave


def gov_report(size: int, rng: random.Random) -> Draft:
    return _marked("Finding", size, rng)


def multi_news(size: int, rng: random.Random) -> Draft:
    return _marked("Headline", size, rng)


def qmsum(size: int, rng: random.Random) -> Draft:
    """What one of the speakers will do: two promises, among those of others."""
    speakers = rng.sample(words.NAMES, min(max(size // 3, 2), 5))
    plans = {name: [f"{rng.choice(words.DEEDS)} {noun_phrase(rng)}" for _ in range(2)] for name in speakers}
    lines = [(name, plan) for name in speakers for plan in plans[name]]
    rng.shuffle(lines)
    promises = {name: [plan for speaker, plan in lines if speaker == name] for name in speakers}
    facts = [f"{name} will {plan}." for name, plan in lines]
    filler = [f"{rng.choice(speakers)}: {sentence(rng)}" for _ in range(max(0, size - len(facts)))]
    queries = []
    for name, (first, second) in promises.items():
        answer = f"{first}. {name} will {second}."
        queries.append(Query(f"{name} will", (answer,), f" {answer}"))
    return Draft(weave(facts, filler, rng, join="\n"), tuple(queries))


def samsum(size: int, rng: random.Random) -> Draft:
    """Dialogues with their summaries, then one without."""
    shown = [_dialogue(rng) for _ in range(max(0, size // 4))]
    context = "\n".join(f"{talk}{summary}" for talk, summary in shown)
    talk, summary = _dialogue(rng)
    return Draft(context or "None.", (Query(talk, (summary.strip(),), summary),))


def _dialogue(rng: random.Random) -> tuple[str, str]:
    """(dialogue up to the word Summary, its summary)."""
    names = rng.sample(words.NAMES, 2)
    plans = [f"will {rng.choice(words.DEEDS)} {noun_phrase(rng)}" for _ in names]
    talk = "\n".join(f"{name}: I {plan}." for name, plan in zip(names, plans, strict=True))
    summary = " ".join(f"{name} {plan}." for name, plan in zip(names, plans, strict=True))
    return f"Dialogue:\n{talk}\nSummary:", f" {summary}"


def _marked(mark: str, size: int, rng: random.Random) -> Draft:
    count = rng.randrange(2, 5)
    facts = [f"{mark} {i}: {sentence(rng)}" for i in range(1, count + 1)]
    answer = " ".join(facts)
    text = weave(facts, [sentence(rng) for _ in range(max(0, size - count))], rng)
    return Draft(text, (Query("", (answer,), f" {answer}"),))
