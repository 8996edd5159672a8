"""Variable tracking: values that wander from box to box (RULER's `vt`: 1 chain, 4 hops; arXiv 2404.06654, section 3.2).

Facts follow NVIDIA/RULER `scripts/data/synthetic/variable_tracking.py`. Differs: the story is about boxes, in our
wording; chains interleave at random instead of being inserted one after the other (no difference with the one chain of
the task); the worked example of the official preset has a fixed number of sentences (about 350 tokens), where the
official one is fitted to 500.
"""

import functools
import random
import string
from collections.abc import Sequence
from typing import Any

from ruler import haystack, lexicon
from ruler.niah import distinct
from ruler.sample import Draft


def build(
    params: dict[str, Any], size: int, rng: random.Random, wording: dict[str, Any], essays: Sequence[str] | None
) -> Draft:
    """`size` counts noise sentences. Each chain's statements keep their order; chains interleave. The question is
    about the first chain.

    `letters`: length of a random upper-case box name, as the official generator draws them (5); 0 takes names from a
    word list. `form`: "list" asks for the names alone, as 30 tokens of answer need; else the answer retells the chain.
    `example`: parameters of a worked example put before the text.
    """
    text = wording["vt"] | (wording["vt"]["list"] if params.get("form") == "list" else {})
    if example := params.get("example"):
        plain = {key: value for key, value in params.items() if key != "example"}
        worked = build(plain | example, example["size"], rng, wording, essays)
        return build(plain, size, rng, wording, essays).after(worked)

    chains, hops = params["num_chains"], params["num_hops"]
    used: set[str] = set()
    draw_box = functools.partial(lexicon.invented, params["letters"], string.ascii_uppercase)
    boxes = [distinct(draw_box, hops + 1, rng, used) for _ in range(chains)]
    values = distinct(lambda r: str(r.randint(10_000, 99_999)), chains, rng, used)

    sentences = haystack.noise(size)
    slots = haystack.places(chains * (hops + 1), size, rng, params.get("places", "any"))
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
