"""The needle grid as prompts of the suite. A test sample hides one sentence, a validation sample another.

Validation samples stand at depths between those of the test, and their text begins in the middle of the essays.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

from cokv.decode.decode import Stop
from cokv.model.loading import LoadedModel
from ruler import grid
from ruler.essays import BUNDLED, Essays, essay_files, read_essays
from ruler.sample import Draft
from suite.spec.benchmarks import RulerSpec
from suite.spec.needle import NeedleSpec
from suite.tasks.prompt import Prompt
from suite.tasks.ruler_text import RulerText

BENCHMARK = "needle"
NOTE = "needle grid: this project's wording around the needle"


@functools.lru_cache(maxsize=2)
def _essays(source: str) -> Essays:
    return read_essays(source)


def check(spec: NeedleSpec) -> None:
    """Refuses essays that cannot be read."""
    _essays(spec.essays)


def identity(spec: NeedleSpec) -> dict[str, Any]:
    """Checksums of the essays, by file."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in essay_files(spec.essays)}


def shared_identity(spec: NeedleSpec) -> dict[str, Any]:
    """What determines the samples of all tasks alike."""
    return {"essays": identity(spec), "chat": spec.chat, "max_new_tokens": spec.max_new_tokens}


def test_count(spec: NeedleSpec) -> int:
    return len(spec.chosen_depths)


def prompts(
    spec: NeedleSpec, loaded: LoadedModel, task: str, count: int, query_aware: bool, validation: bool
) -> Iterator[Prompt]:
    """The first `count` samples of a task, one per depth; validation samples as many as asked for."""
    sentences = list(_essays(spec.essays).sentences)
    depths: list[float] = list(spec.chosen_depths)
    needle = grid.DOLORES_PARK
    if validation:
        needle, middle = grid.LIGHTHOUSE, len(sentences) // 2
        sentences = sentences[middle:] + sentences[:middle]
        depths = [100 * (place + 0.5) / count for place in range(count)]
    text = _text(spec, loaded)
    for place, depth in enumerate(depths[:count]):
        drawn = grid.fitted(
            needle,
            sentences,
            depth,
            spec.length_of(task),
            spec.max_new_tokens,
            lambda d: len(text.begin(text.whole(d))),
        )
        sample_id = f"{task}/{'validation' if validation else 'test'}/{place}"
        yield _prompt(spec, loaded, task, sample_id, depth, drawn, text, query_aware)


def _text(spec: NeedleSpec, loaded: LoadedModel) -> RulerText:
    """RULER's way to write a prompt in a chat template serves here too."""
    return RulerText.of(RulerSpec(length=1, tasks=("niah_single_1",), samples=1, chat=spec.chat), loaded.tokenizer)


def _prompt(
    spec: NeedleSpec,
    loaded: LoadedModel,
    task: str,
    sample_id: str,
    depth: float,
    drawn: Draft,
    text: RulerText,
    query_aware: bool,
) -> Prompt:
    context, question = text.parts(drawn)
    if query_aware:
        context, question = context + question, ""
    newline = loaded.tokenizer.encode("\n", add_special_tokens=False)[-1]
    bundled = BUNDLED.get(spec.essays)
    return Prompt(
        benchmark=BENCHMARK,
        task=task,
        sample_id=sample_id,
        seed=0,
        context_ids=text.begin(context),
        question_ids=text.go_on(question) if question else None,
        references=drawn.outputs,
        stop=Stop(spec.max_new_tokens, (*loaded.eos_ids, newline)),
        metric=grid.score,
        notes=(NOTE, *(() if bundled is None else (bundled.note,)), *text.notes),
        gold=drawn.gold,
        answer_prefix=drawn.answer_prefix,
        groups={"depth": f"{depth:g}"},
    )
