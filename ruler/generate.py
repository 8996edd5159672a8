"""Makes RULER samples that fit a length, with any tokenizer. Seeded: the same arguments give the same samples everywhere.

The fitting rule is RULER's: prompt + answer prefix + tokens to generate, counted without special tokens, is at most the length, and
the haystack is the largest that fits. The official generator walks up in steps and can loop for ever when even the smallest prompt
is too long; ours searches by bisection and raises.
"""

import functools
import random
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from ruler import chain, frequency, haystack, niah, qa
from ruler.errors import RulerError
from ruler.sample import Draft, Sample, Task
from ruler.tasks import get_task

VERSION = 1  # of the generators and the wording: part of every record's identity


class Tokenizer(Protocol):
    """What fitting needs of a tokenizer (transformers' have it)."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> Sequence[int]: ...


@dataclass(frozen=True)
class Sources:
    """Real text named by the user; None means generated stand-ins, which every sample then notes."""

    essays: tuple[str, ...] | None = None
    questions: dict[str, Any] | None = None  # task name -> questions of ruler.qa.read_questions

    @classmethod
    def read(cls, essay_folder: Path | None = None, question_files: dict[str, Path] | None = None) -> "Sources":
        essays = tuple(haystack.read_essays(Path(essay_folder))) if essay_folder else None
        questions = {t: qa.read_questions(Path(p)) for t, p in (question_files or {}).items()}
        return cls(essays, questions or None)

    def notes(self, task: Task) -> tuple[str, ...]:
        if task.kind == "niah" and task.params["type_haystack"] == "essay" and self.essays is None:
            return ("essay haystack is generated text",)
        if task.kind == "qa" and task.name not in (self.questions or {}):
            return ("questions and documents are generated",)
        return ()


@functools.cache
def wording() -> dict[str, Any]:
    """The template file, read once."""
    return tomllib.loads((files("ruler") / "wording.toml").read_text(encoding="utf-8"))


_BUILD: dict[str, Callable[..., Draft]] = {
    "niah": niah.build,
    "vt": chain.build,
    "cwe": frequency.build_cwe,
    "fwe": frequency.build_fwe,
    "qa": qa.build,
}
# The largest haystack the search will try, per generator: beyond it the generator has nothing new to add.
_LIMIT = {"niah": 200_000, "vt": 200_000, "cwe": 20_000, "fwe": 1_000_000, "qa": 20_000}


def draft(task: Task, size: int, rng: random.Random, sources: Sources | None = None) -> Draft:
    """One prompt of the given haystack size."""
    sources = sources or Sources()
    source = (sources.questions or {}).get(task.name) if task.kind == "qa" else sources.essays
    return _BUILD[task.kind](task.params, size, rng, wording(), source)


def largest_size(task: Task) -> int:
    """The size past which a generator has no distinct words, keys or people left."""
    if task.kind == "niah" and task.params["type_haystack"] == "needle" and task.params["type_needle_k"] == "word":
        return len(niah.words.KEYS) - task.params["num_needle_k"]
    if task.kind == "qa":
        return 500
    if task.kind == "cwe":
        compounds = len(frequency.words.ADJECTIVES) * len(frequency.words.KEYS) if task.params["compounds"] else 0
        return len(frequency.VOCABULARY) + compounds - task.params["num_cw"]
    return _LIMIT[task.kind]


def fit(task: Task, tokenizer: Tokenizer, length: int, sources: Sources | None = None) -> int:
    """The largest haystack size whose prompt fits `length` tokens. Raises when not even the smallest fits."""

    def tokens(size: int) -> int:
        probe = draft(task, size, random.Random(f"fit/{task.name}"), sources)
        if not probe.outputs:
            return 0
        return len(tokenizer.encode(probe.prompt, add_special_tokens=False)) + task.tokens_to_generate

    low, high = 0, 1
    if tokens(0) > length:
        raise RulerError(
            f"{task.name} does not fit {length} tokens: its smallest prompt needs {tokens(0)} with "
            f"{task.tokens_to_generate} to generate; ask for a longer length"
        )
    while high < largest_size(task) and tokens(high) <= length:
        low, high = high, high * 2
    high = min(high, largest_size(task) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if tokens(middle) <= length:
            low = middle
        else:
            high = middle
    return low


def generate(
    name: str,
    tokenizer: Tokenizer,
    length: int,
    count: int,
    seed: int,
    preset: str = "official",
    sources: Sources | None = None,
    offset: int = 0,
) -> Iterator[Sample]:
    """`count` samples of a task, each at most `length` tokens with its answer. Sample i does not depend on `count`."""
    task = get_task(name, preset)
    sources = sources or Sources()
    size = fit(task, tokenizer, length, sources)
    for index in range(offset, offset + count):
        sample_id = f"{name}/{length}/{seed}/{index}"
        yield _fitted(task, tokenizer, length, size, seed, sample_id, preset, sources)


def _fitted(
    task: Task, tokenizer: Tokenizer, length: int, size: int, seed: int, sample_id: str, preset: str, sources: Sources
) -> Sample:
    """Draws one sample, shrinking the haystack while this draw is longer than the fitted probe was."""
    while size >= 0:
        made = draft(task, size, random.Random(f"{preset}/{sample_id}"), sources)
        tokens = len(tokenizer.encode(made.prompt, add_special_tokens=False)) + task.tokens_to_generate
        if tokens <= length and made.outputs:
            return Sample(
                task=task.name,
                sample_id=sample_id,
                seed=seed,
                context=made.context,
                question=made.question,
                answer_prefix=made.answer_prefix,
                outputs=made.outputs,
                gold=made.gold,
                length=tokens,
                tokens_to_generate=task.tokens_to_generate,
                metric=task.metric,
                notes=sources.notes(task),
            )
        size -= max(1, size * (tokens - length) // max(tokens, 1))
    raise RulerError(f"{sample_id} does not fit {length} tokens at any haystack size; ask for a longer length")
