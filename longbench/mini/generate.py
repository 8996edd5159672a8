"""Makes samples of the 21 stand-ins that fit a length, with any tokenizer. Seeded: the same arguments give the same
samples everywhere, and sample i depends on no other.

A prompt and its answer's length are counted without special tokens; the context is the largest that fits, searched
on one probe prompt, and a longer draw takes a smaller context.
"""

from __future__ import annotations

import functools
import hashlib
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol

from longbench.errors import LongBenchError
from longbench.mini import chinese, code, few_shot, question_answering, summaries, synthetic
from longbench.mini.text import Draft, Query
from longbench.tasks import TASKS, get_task
from longbench.templates import Templates

VERSION = 1  # of the generators and the wording: part of every record's identity
NOTE = "generated stand-in, not LongBench's own data"
BUILDERS: dict[str, Callable[[int, random.Random], Draft]] = {
    "narrativeqa": question_answering.narrativeqa,
    "qasper": question_answering.qasper,
    "multifieldqa_en": question_answering.multifieldqa_en,
    "multifieldqa_zh": chinese.multifieldqa_zh,
    "hotpotqa": question_answering.hotpotqa,
    "2wikimqa": question_answering.two_wiki,
    "musique": question_answering.musique,
    "dureader": chinese.dureader,
    "gov_report": summaries.gov_report,
    "qmsum": summaries.qmsum,
    "multi_news": summaries.multi_news,
    "vcsum": chinese.vcsum,
    "trec": few_shot.trec,
    "triviaqa": few_shot.triviaqa,
    "samsum": summaries.samsum,
    "lsht": chinese.lsht,
    "passage_count": synthetic.passage_count,
    "passage_retrieval_en": synthetic.passage_retrieval_en,
    "passage_retrieval_zh": synthetic.passage_retrieval_zh,
    "lcc": code.lcc,
    "repobench-p": code.repobench_p,
}


class Encoder(Protocol):
    """What fitting needs of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Any: ...


@dataclass(frozen=True)
class MiniSample:
    """`record`: the official schema. `gold`: the text a perfect model would write after the prompt."""

    record: dict[str, Any]
    gold: str


@functools.cache
def wording() -> dict[str, dict[str, Any]]:
    """Data set -> prompt and max_new_tokens."""
    return tomllib.loads(_wording_text())


@functools.cache
def _wording_text() -> str:
    return (files("longbench.mini") / "wording.toml").read_text(encoding="utf-8")


def templates() -> Templates:
    """Our prompts and lengths in the place of the official files."""
    digest = hashlib.sha256(_wording_text().encode()).hexdigest()
    prompts = {name: str(row["prompt"]) for name, row in wording().items()}
    lengths = {name: int(row["max_new_tokens"]) for name, row in wording().items()}
    return Templates(prompts, lengths, {"wording.toml": digest})


def prompt(name: str, context: str, query: Query) -> str:
    text: str = wording()[name]["prompt"].format(context=context, input=query.input)
    return text


def fit(name: str, tokenizer: Encoder, length: int) -> int:
    """The largest size whose prompt and answer fit `length` tokens."""

    def tokens(size: int) -> int:
        return _tokens(name, BUILDERS[name](size, random.Random(f"fit/{name}")), tokenizer)

    if (smallest := tokens(0)) > length:
        raise LongBenchError(f"{name} does not fit {length} tokens: its smallest prompt needs {smallest}; ask for more")
    low, high = 0, 1
    while high < length and tokens(high) <= length:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tokens(middle) <= length else (low, middle)
    return low


def generate(
    name: str, tokenizer: Encoder, length: int, count: int, seed: int, offset: int = 0
) -> Iterator[MiniSample]:
    """`count` samples, each at most `length` tokens with its answer."""
    if get_task(name).name not in BUILDERS or name not in BUILDERS:
        raise LongBenchError(f"got {name!r}, which has no generated stand-in; expected one of {', '.join(BUILDERS)}")
    size = fit(name, tokenizer, length)
    return (_sample(name, tokenizer, length, size, seed, index) for index in range(offset, offset + count))


def _tokens(name: str, draft: Draft, tokenizer: Encoder) -> int:
    ids = tokenizer.encode(prompt(name, draft.context, draft.queries[0]), add_special_tokens=False)
    return len(ids) + int(wording()[name]["max_new_tokens"])


def _sample(name: str, tokenizer: Encoder, length: int, size: int, seed: int, index: int) -> MiniSample:
    sample_id = f"{name}/{length}/{seed}/{index}"
    while size >= 0:
        draft = BUILDERS[name](size, random.Random(f"longbench-mini/{sample_id}"))
        tokens = _tokens(name, draft, tokenizer)
        if tokens <= length:
            return MiniSample(_record(name, sample_id, draft), draft.queries[0].gold)
        size -= max(1, size * (tokens - length) // tokens)
    raise LongBenchError(f"{sample_id} does not fit {length} tokens at any size; ask for a longer length")


def _record(name: str, sample_id: str, draft: Draft) -> dict[str, Any]:
    task, query = TASKS[name], draft.queries[0]
    length = len(draft.context) if task.language == "zh" else len(draft.context.split())
    return {
        "input": query.input,
        "context": draft.context,
        "answers": list(query.answers),
        "length": length,
        "dataset": name,
        "language": task.language,
        "all_classes": list(draft.all_classes) if draft.all_classes else None,
        "_id": sample_id,
    }
