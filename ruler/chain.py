"""Variable tracking: values that wander from box to box (RULER's `vt`: 1 chain, 4 hops; arXiv 2404.06654, section 3.2)."""

import random
from collections.abc import Sequence
from typing import Any

from ruler import haystack, words
from ruler.niah import distinct
from ruler.sample import Draft


def _box(letters: int, rng: random.Random) -> str:
    if letters:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(letters))
    return rng.choice(words.BOXES)


def build(
    params: dict[str, Any], size: int, rng: random.Random, wording: dict[str, Any], essays: Sequence[str] | None
) -> Draft:
    """`size` counts noise sentences. Each chain's statements keep their order; chains interleave. The first chain is asked for.

    `letters`: length of a random upper-case box name, as the official generator draws them (5); 0 takes names from a word list.
    """
    text = wording["vt"]
    chains, hops = params["num_chains"], params["num_hops"]
    taken: set[str] = set()
    boxes = [distinct(lambda r: _box(params["letters"], r), hops + 1, rng, taken) for _ in range(chains)]
    values = distinct(lambda r: str(r.randint(10_000, 99_999)), chains, rng, taken)

    sentences = haystack.noise(size)
    slots = sorted(rng.randrange(size + 1) for _ in range(chains * (hops + 1)))
    owners = [c for c in range(chains) for _ in range(hops + 1)]
    rng.shuffle(owners)
    step = [0] * chains
    statements = []
    for owner in owners:
        i = step[owner]
        names = {"box": boxes[owner][i], "previous": boxes[owner][i - 1], "value": values[owner]}
        statements.append(text["first" if i == 0 else "hop"].format(**names))
        step[owner] += 1
    for place, statement in reversed(list(zip(slots, statements, strict=True))):
        sentences.insert(place, statement)

    gold = ""
    for i, box in enumerate(boxes[0]):
        gold += (text["gold_join"].format(previous=boxes[0][i - 1]) if i else "") + text["gold_item"].format(box=box)
    return Draft(
        context=text["intro"] + " ".join(sentences),
        question=text["question"].format(n=hops + 1, value=values[0]),
        answer_prefix=text["prefix"].format(value=values[0]),
        outputs=tuple(boxes[0]),
        gold=gold + text["gold_end"],
    )
