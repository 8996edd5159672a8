"""Synthetic sets: counting different paragraphs, and finding the paragraph that a line is about. `size` counts
paragraphs.
"""

from __future__ import annotations

import random

from longbench.mini import words
from longbench.mini.text import Draft, Query, sentence, sentence_zh


def passage_count(size: int, rng: random.Random) -> Draft:
    total = max(size, 2)
    different = [f"{sentence(rng)} {sentence(rng)}" for _ in range(rng.randrange(2, min(total, 9) + 1))]
    shown = different + [rng.choice(different) for _ in range(total - len(different))]
    rng.shuffle(shown)
    text = "\n".join(f"Paragraph {i}: {part}" for i, part in enumerate(shown, 1))
    return Draft(text, (Query("", (str(len(different)),), f" {len(different)}"),))


def passage_retrieval_en(size: int, rng: random.Random) -> Draft:
    """Every paragraph ends with what it is about and its number."""
    about = [f"The story of {key}:" for key in rng.sample(words.KEYS, min(max(size, 2), len(words.KEYS)))]
    lines = [f"{sentence(rng)} {sentence(rng)} {end} {i}." for i, end in enumerate(about, 1)]
    return _retrieval(about, lines, ("Paragraph {}", " {}."), rng)


def passage_retrieval_zh(size: int, rng: random.Random) -> Draft:
    about = [f"人们去看{goods}：" for goods in rng.sample(words.ZH_GOODS, min(max(size, 2), len(words.ZH_GOODS)))]
    lines = [f"{sentence_zh(rng)}{sentence_zh(rng)}{end}{i}。" for i, end in enumerate(about, 1)]
    return _retrieval(about, lines, ("段落{}", "{}。"), rng)


def _retrieval(about: list[str], lines: list[str], forms: tuple[str, str], rng: random.Random) -> Draft:
    """Asks for the numbers of up to six paragraphs; `forms` of the answer and of the gold text."""
    answer, gold = forms
    chosen = rng.sample(range(1, len(about) + 1), min(len(about), 6))
    return Draft("\n".join(lines), tuple(Query(about[i - 1], (answer.format(i),), gold.format(i)) for i in chosen))
