"""Training data of the embedded model: token sequences with the loss on answers only. Endless and seeded.

Five kinds: *copy* (random tokens, a part of which comes again: this is what makes the induction circuit form),
*pattern* (facts of one invented form with invented keys, all queried later: retrieval that depends on no wording),
*recall* (one context, then as many questions as fit: the dense signal, and practice in answering questions that arrive
late), the RULER tasks of the `mini` preset, and the stand-ins for LongBench's data sets. Seeds are strings that no
benchmark sample uses.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from tokenizers import Tokenizer

from longbench.errors import LongBenchError
from longbench.mini import generate as longbench_mini
from ruler import haystack, niah
from ruler.errors import RulerError
from ruler.generate import draft, fit, wording
from ruler.tasks import TASKS
from suite.embedded.tokenizer import token_id

HEX = "0123456789abcdef-"
IGNORED = -100  # label of a token without loss
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]  # ids, labels, positions, kinds
WEIGHTS = {
    "copy": 0.03,
    "pattern": 0.40,
    "recall": 0.12,
    "niah_single_1": 0.02,
    "niah_single_2": 0.02,
    "niah_single_3": 0.04,
    "niah_multikey_1": 0.06,
    "niah_multikey_2": 0.07,
    "niah_multikey_3": 0.02,
    "niah_multivalue": 0.16,
    "niah_multiquery": 0.10,
    "vt": 0.10,
    "qa_1": 0.04,
    "qa_2": 0.05,
    "cwe": 0.01,
    "fwe": 0.01,
    "narrativeqa": 0.06,
    "qasper": 0.05,
    "multifieldqa_en": 0.05,
    "multifieldqa_zh": 0.05,
    "hotpotqa": 0.07,
    "2wikimqa": 0.05,
    "musique": 0.04,
    "dureader": 0.05,
    "gov_report": 0.03,
    "qmsum": 0.04,
    "multi_news": 0.03,
    "vcsum": 0.03,
    "trec": 0.07,
    "triviaqa": 0.03,
    "samsum": 0.04,
    "lsht": 0.06,
    "passage_count": 0.01,
    "passage_retrieval_en": 0.07,
    "passage_retrieval_zh": 0.05,
    "lcc": 0.06,
    "repobench-p": 0.05,
}


@dataclass(frozen=True)
class Example:
    """`ids` and `labels` have equal length; a label is the token itself where it is to be predicted."""

    kind: str
    ids: list[int]
    labels: list[int]


class Plain:
    """A `tokenizers` tokenizer with the interface that `ruler` expects."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids


class Mixture:
    """Examples of at most `length` tokens. `kinds` and `span` limit the mixture (stage 1: copy alone, short spans)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        length: int,
        seed: str,
        kinds: tuple[str, ...] | None = None,
        span: int | None = None,
    ) -> None:
        self.span = span or length // 2
        self.plain, self.length, self.rng = Plain(tokenizer), length, random.Random(f"train/{seed}/{length}")
        self.arrays = np.random.default_rng(self.rng.getrandbits(63))
        self.bos, self.eos = token_id(tokenizer, "<bos>"), token_id(tokenizer, "<eos>")
        # Tokens for random sequences: all but the specials and the bytes that hardly ever occur.
        pieces = tokenizer.get_vocab()
        self.live = np.array(
            sorted(i for piece, i in pieces.items() if i > self.eos and (len(piece) > 1 or piece in HEX))
        )
        self.sizes: dict[str, int] = {}
        for name, task in TASKS["mini"].items():
            try:
                self.sizes[name] = fit(task, self.plain, length - 1)
            except RulerError:  # too long for this length: it joins when the context has grown
                continue
        for name in longbench_mini.BUILDERS:
            try:
                self.sizes[name] = longbench_mini.fit(name, self.plain, length - 1)
            except LongBenchError:
                continue
        synthetic = ("copy", "pattern", "recall")
        names = [k for k in WEIGHTS if (k in self.sizes or k in synthetic) and (kinds is None or k in kinds)]
        self.names, self.weights = names, [WEIGHTS[k] for k in names]

    def __iter__(self) -> Iterator[Example]:
        while True:
            kind = self.rng.choices(self.names, self.weights)[0]
            example = self._make(kind)
            if len(example.ids) <= self.length:
                yield example

    def _make(self, kind: str) -> Example:
        if kind in longbench_mini.BUILDERS:
            return self.longbench(kind)
        synthetic = {"copy": self.copy, "pattern": self.pattern, "recall": self.recall}
        return synthetic[kind]() if kind in synthetic else self.task(kind)

    def copy(self) -> Example:
        """Random tokens that repeat, with the loss on the predictable ones.

        Mostly a stretch of at most `span` tokens repeated to the end, else a stretch that comes again once, far away.
        Short spans first: with few candidates the circuit forms within minutes, and then it reaches as far as it is
        shown.
        """
        ids = self.arrays.choice(self.live, self.length)
        labels = np.full(self.length, IGNORED)
        if self.rng.random() < 0.7 or self.span < self.length // 2:
            period = self.rng.randrange(3, self.span + 1)
            ids = np.resize(ids[:period], self.length)
            labels[period:] = ids[period:]
        else:
            half = self.length // 2
            span = self.rng.randrange(8, half + 1)
            source = self.rng.randrange(0, half - span + 1)
            target = self.rng.randrange(half, self.length - span + 1)
            ids[target : target + span] = ids[source : source + span]
            labels[target + 1 : target + span] = ids[target + 1 : target + span]
            ids[0], labels[0] = self.bos, IGNORED
        return Example("copy", ids.tolist(), labels.tolist())

    def pattern(self) -> Example:
        """Facts `head KEY link VALUE tail` of one to three forms, among random tokens; then each queried by `head KEY
        link`, in another order, as many as fit.

        Forms share their keys, so that key and link must both be matched.
        """
        rng, arrays = self.rng, self.arrays
        keys = arrays.permutation(self.live)
        forms = rng.choice((1, 1, 1, 2, 3))
        widths = [(rng.randrange(4), rng.randrange(1, 5), rng.randrange(1, 6)) for _ in range(forms)]
        heads, links, tails = zip(
            *(
                (arrays.choice(self.live, h), arrays.choice(self.live, w), arrays.choice(self.live, 1))
                for h, w, _ in widths
            ),
            strict=True,
        )
        room = self.length - 2
        cost = max(2 * (h + 1 + w + v) + 1 for h, w, v in widths)
        most = max(2, int(room * rng.uniform(0.3, 1.0)) // cost)
        facts = [(keys[i // forms], i % forms, arrays.choice(self.live, widths[i % forms][2])) for i in range(most)]
        order = rng.sample(facts, len(facts))
        questions = [np.concatenate([heads[f], [key], links[f], value]) for key, f, value in order]
        answers = [len(value) for _, _, value in order]
        spare = room - sum(len(a) * 2 + 1 for a in questions)
        gaps = arrays.multinomial(max(spare, 0), np.full(len(facts), 1 / len(facts)))
        ids = [np.array([self.bos])]
        for (key, f, value), gap in zip(facts, gaps, strict=True):
            ids += [arrays.choice(self.live, gap), heads[f], np.array([key]), links[f], value, tails[f]]
        context = np.concatenate(ids)
        labels = [np.full(len(context), IGNORED)]
        for part, count in zip(questions, answers, strict=True):
            labels.append(np.where(np.arange(len(part)) < len(part) - count, IGNORED, part))
        return Example("pattern", np.concatenate([context, *questions]).tolist(), np.concatenate(labels).tolist())

    def task(self, name: str) -> Example:
        """A RULER prompt, mostly near the whole length, now and then shorter, and its gold answer."""
        drawn = draft(TASKS["mini"][name], self._size(name), self.rng)
        prompt, gold = self.plain.encode(drawn.prompt), self.plain.encode(drawn.gold)
        ids = [self.bos, *prompt, *gold, self.eos]
        return Example(name, ids, [IGNORED] * (1 + len(prompt)) + [*gold, self.eos])

    def longbench(self, name: str) -> Example:
        """A LongBench stand-in with the gold answer of its question, and of others on the same context as room is."""
        drawn = longbench_mini.BUILDERS[name](self._size(name), self.rng)
        start = longbench_mini.prompt(name, drawn.context, drawn.queries[0])
        ids = [self.bos, *self.plain.encode(start)]
        labels = [IGNORED] * len(ids)
        gold = self.plain.encode(drawn.queries[0].gold)
        ids, labels = ids + gold, labels + gold
        most = self.rng.randrange(1, 8) if self.rng.random() < 0.6 else 1
        for query in drawn.queries[1:most]:
            question = self.plain.encode("\n" + longbench_mini.prompt(name, "", query).partition("\n")[2].lstrip("\n"))
            gold = self.plain.encode(query.gold)
            if len(ids) + len(question) + len(gold) >= self.length:
                break
            ids, labels = ids + question + gold, labels + [IGNORED] * len(question) + gold
        return Example(name, [*ids, self.eos], [*labels, self.eos])

    def _size(self, name: str) -> int:
        """Mostly near the largest that fits, now and then smaller."""
        share = self.rng.uniform(0.8, 1.0) if self.rng.random() < 0.7 else self.rng.uniform(0.0, 0.8)
        return int(self.sizes[name] * share)

    def recall(self) -> Example:
        """Needles among essay sentences, then questions about one, about several, or about all of one key's values."""
        rng, text = self.rng, wording()["niah"]
        kind = text["kinds"]["numbers"]
        room = self.length - 20
        questions = max(2, int(room * rng.uniform(0.2, 0.5)) // 26)
        needles = max(questions, int(room * rng.uniform(0.2, 0.5)) // 12)
        keys = niah.distinct(lambda r: niah.key("word", r), min(needles, 120), rng, set())
        facts = {k: niah.value("numbers", rng) for k in keys}
        sentences = [text["needle"].format(kind=kind, key=k, value=v) for k, v in facts.items()]
        filler = max(0, (room - 12 * len(keys) - 26 * questions) // 9)
        sentences += haystack.generated_essay(filler, rng) if rng.random() < 0.7 else haystack.noise(filler)
        rng.shuffle(sentences)
        ids = [self.bos, *self.plain.encode(text["intro"].format(kind=kind) + " ".join(sentences))]
        labels = [IGNORED] * len(ids)
        for key in rng.sample(keys, min(questions, len(keys))):
            question = text["question"].format(kind=kind, query=key) + text["prefix"].format(kind=kind, query=key)
            prompt, gold = self.plain.encode(question), self.plain.encode(text["gold"].format(value=facts[key]))
            if len(ids) + len(prompt) + len(gold) + 1 > self.length:
                break
            ids += prompt + gold
            labels += [IGNORED] * len(prompt) + gold
        return Example("recall", [*ids, self.eos], [*labels, self.eos])


def batch(
    examples: Iterator[Example], rows: int, length: int, rng: np.random.Generator, reach: int, ends: tuple[int, ...]
) -> Batch:
    """`rows` examples, right-padded: ids, labels, positions (each [rows, length]) and kinds.

    Half of the rows shorter than `reach` get gaps in their positions, so that rotary distances of the long contexts to
    come are trained early (randomized positions, arXiv 2305.16843). Gaps fall behind `ends`, the tokens that close a
    sentence or a line: inside a sentence neighbours stay neighbours, as they are in a long context too.
    """
    ids, labels = np.zeros((rows, length), np.int64), np.full((rows, length), IGNORED, np.int64)
    positions, kinds = np.tile(np.arange(length), (rows, 1)), []
    for row in range(rows):
        example = next(examples)
        n = len(example.ids)
        ids[row, :n], labels[row, :n] = example.ids, example.labels
        kinds.append(example.kind)
        places = 1 + np.flatnonzero(np.isin(ids[row, : length - 1], ends))
        if length < reach and len(places) and example.kind != "copy" and rng.random() < 0.5:
            cuts = rng.choice(places, size=min(len(places), int(rng.integers(1, 8))), replace=False)
            gaps = np.zeros(length, np.int64)
            gaps[cuts] = rng.multinomial(rng.integers(0, reach - length + 1), np.full(len(cuts), 1 / len(cuts)))
            positions[row] += gaps.cumsum()
    return torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(positions), kinds
