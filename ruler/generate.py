"""Makes RULER samples that fit a length, with any tokenizer. Seeded: the same arguments give the same samples
everywhere.

The fitting rule is RULER's: prompt + answer prefix + tokens to generate, counted without special tokens, is at most the
length, and the haystack is the largest that fits, searched on one probe prompt; a longer draw takes a smaller haystack.

Facts follow NVIDIA/RULER `scripts/data/synthetic/*.py`. Differs: the official generators walk or bisect in steps of
many units and loop for ever when their smallest prompt is too long; ours goes by single units and raises. Every sample
has its own generator, so that it depends on its index and on no other sample.
"""

import functools
import random
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from ruler import chain, frequency, lexicon, niah, qa, words
from ruler.errors import RulerError
from ruler.essays import Essays, read_essays
from ruler.questions import read_questions
from ruler.sample import Draft, Sample, Task
from ruler.tasks import at_length, get_task

VERSION = 1  # of the generators and the wording: part of every record's identity


class Encoder(Protocol):
    """What fitting needs of a tokenizer (transformers' have it)."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> Sequence[int]: ...


AsRead = Callable[[Draft], str]  # a prompt's whole text as the model reads it, in a chat template for example


def bare(draft: Draft) -> str:
    """The prompt alone."""
    return draft.prompt


@dataclass(frozen=True)
class Sources:
    """Real text named by the user; None means generated stand-ins, which every sample then notes."""

    essays: Essays | None = None
    questions: dict[str, qa.QuestionSet] | None = None  # by task name

    @classmethod
    def read(cls, essays: Path | str | None = None, question_files: dict[str, Path] | None = None) -> "Sources":
        """essays: a folder of .txt files, or a bundled text's name, see `essays.py`."""
        questions = {}
        for name, path in (question_files or {}).items():
            if get_task(name).kind != "qa":
                raise RulerError(f"{name} takes no question file; expected qa_1 or qa_2")
            questions[name] = read_questions(Path(path))
        return cls(None if essays is None else read_essays(essays), questions or None)

    def asked_of(self, task: Task) -> qa.QuestionSet | None:
        """The user's questions for this task, if there are any."""
        return (self.questions or {}).get(task.name)

    def notes(self, task: Task, size: int) -> tuple[str, ...]:
        """What a record must say about the text of a prompt of this haystack size."""
        notes = []
        if task.kind == "niah" and task.params["type_haystack"] == "essay":
            if self.essays is None:
                notes.append("essay haystack is generated text")
            else:
                notes += [self.essays.note] if self.essays.note else []
                if size > len(self.essays.sentences):
                    notes.append("the essays are shorter than the haystack and repeat")
        if task.kind == "qa" and self.asked_of(task) is None:
            notes.append("questions and documents are generated")
        if size >= largest_size(task, self):
            notes.append("the haystack ends below the length: there is nothing new to add")
        return tuple(notes)


@functools.cache
def wording() -> dict[str, Any]:
    """The template file, read once."""
    return tomllib.loads((files("ruler") / "wording.toml").read_text(encoding="utf-8"))


_BUILD: dict[str, Callable[..., Draft]] = {
    "niah": niah.build,
    "vt": chain.build,
    "cwe": frequency.build_cwe,
    "fwe": frequency.build_fwe,
}
_LIMIT = {"niah": 200_000, "vt": 200_000, "fwe": 1_000_000}  # haystacks that could go on for ever: far above any length


def draft(task: Task, size: int, rng: random.Random, sources: Sources | None = None, index: int | None = None) -> Draft:
    """One prompt with a haystack of `size` units. `index` picks the question of a question file (any, when None)."""
    sources = sources or Sources()
    if task.kind == "qa":
        return qa.build(task.params, size, rng, wording(), sources.asked_of(task), index)
    return _BUILD[task.kind](task.params, size, rng, wording(), sources.essays.sentences if sources.essays else None)


def largest_size(task: Task, sources: Sources | None = None) -> int:
    """The size past which a generator has no distinct words, keys or documents left."""
    params = task.params
    if task.kind == "niah" and params["type_haystack"] == "needle" and params["type_needle_k"] in ("word", "words"):
        keys = len(words.KEYS) if params["type_needle_k"] == "word" else lexicon.PAIRS // 2
        return keys - max(int(params["num_needle_k"]), int(params["num_needle_q"]))
    if task.kind == "qa":
        source = (sources or Sources()).asked_of(task)
        return qa.largest_world(params) if source is None else len(source.documents) - 1
    if task.kind == "cwe":
        return frequency.largest_cwe(params)
    return _LIMIT[task.kind]


def fit(task: Task, tokenizer: Encoder, length: int, sources: Sources | None = None, as_read: AsRead = bare) -> int:
    """The largest haystack size whose prompt fits `length` tokens. Raises when not even the smallest fits."""
    task = at_length(task, length)

    def tokens(size: int) -> int:
        probe = draft(task, size, random.Random(f"fit/{task.name}"), sources, index=0)
        if not probe.outputs:
            return 0
        return len(tokenizer.encode(as_read(probe), add_special_tokens=False)) + task.tokens_to_generate

    low, high, end = 0, 1, largest_size(task, sources)
    if (smallest := tokens(0)) > length:
        raise RulerError(
            f"{task.name} does not fit {length} tokens: its smallest prompt needs {smallest} with "
            f"{task.tokens_to_generate} to generate; ask for a longer length"
        )
    while high < end and tokens(high) <= length:
        low, high = high, high * 2
    high = min(high, end + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if tokens(middle) <= length:
            low = middle
        else:
            high = middle
    return low


def generate(
    name: str,
    tokenizer: Encoder,
    length: int,
    count: int,
    seed: int,
    preset: str = "official",
    sources: Sources | None = None,
    offset: int = 0,
    last_questions: bool = False,
    as_read: AsRead = bare,
) -> Iterator[Sample]:
    """`count` samples of a task, each at most `length` tokens with its answer. Sample i does not depend on `count`.

    Of a question file, the i-th sample after `offset` asks question offset + i, or with `last_questions` the i-th from
    the end. What `as_read` puts around a prompt counts into the length. A task, length or source that cannot work
    raises here, not at the first sample.
    """
    task = at_length(get_task(name, preset), length)
    sources = sources or Sources()
    source = sources.asked_of(task) if task.kind == "qa" else None
    if source is not None and count > len(source.questions):
        raise RulerError(
            f"{name}: {count} samples asked, but its file has {len(source.questions)} questions; ask for fewer"
        )
    size = fit(task, tokenizer, length, sources, as_read)

    def samples() -> Iterator[Sample]:
        for i in range(count):
            question = -1 - i if last_questions else offset + i
            yield _fitted(task, tokenizer, length, size, seed, offset + i, preset, sources, question, as_read)

    return samples()


def _fitted(
    task: Task,
    tokenizer: Encoder,
    length: int,
    size: int,
    seed: int,
    index: int,
    preset: str,
    sources: Sources,
    question: int,
    as_read: AsRead,
) -> Sample:
    """Draws one sample, shrinking the haystack while this draw is longer than the fitted probe was."""
    sample_id = f"{task.name}/{length}/{seed}/{index}"
    while size >= 0:
        drawn = draft(task, size, random.Random(f"{preset}/{sample_id}"), sources, question)
        tokens = len(tokenizer.encode(as_read(drawn), add_special_tokens=False)) + task.tokens_to_generate
        if tokens <= length and drawn.outputs:
            return Sample(
                task=task.name,
                sample_id=sample_id,
                seed=seed,
                context=drawn.context,
                question=drawn.question,
                answer_prefix=drawn.answer_prefix,
                outputs=drawn.outputs,
                gold=drawn.gold,
                length=tokens,
                tokens_to_generate=task.tokens_to_generate,
                metric=task.metric,
                notes=sources.notes(task, size),
            )
        size -= max(1, size * (tokens - length) // max(tokens, 1))
    raise RulerError(f"{sample_id} does not fit {length} tokens at any haystack size; ask for a longer length")
