"""Benchmarks behind one shape: prompts to run and a function that judges answers. Today RULER.

A test sample and a validation sample never share a seed stream: head scores must not see what is reported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from cokv.decode import Stop
from cokv.model import LoadedModel
from ruler import generate as ruler_generate
from ruler.sample import Sample
from ruler.scoring import score
from suite.spec import Experiment

VALIDATION_OFFSET = 1_000_000  # index of the first validation sample of every seed


@dataclass(frozen=True)
class Prompt:
    """One sample ready to run. `context_ids` is compressed; `question_ids`, if any, follows on the compressed cache.

    A query-aware prompt has its question inside the context and no `question_ids`.
    """

    benchmark: str
    task: str
    sample_id: str
    seed: int
    context_ids: torch.Tensor  # int64 [seq_len]
    question_ids: torch.Tensor | None  # int64 [t]
    references: tuple[str, ...]
    stop: Stop
    metric: Callable[[str, tuple[str, ...]], float]  # percent
    notes: tuple[str, ...]

    @property
    def prompt_tokens(self) -> int:
        return self.context_ids.numel() + (0 if self.question_ids is None else self.question_ids.numel())


@functools.cache
def _sources(essays: str | None, questions: tuple[tuple[str, str], ...]) -> ruler_generate.Sources:
    return ruler_generate.Sources.read(Path(essays) if essays else None, {task: Path(path) for task, path in questions})


def task_names(experiment: Experiment) -> tuple[str, ...]:
    return experiment.ruler.tasks


def test_prompts(experiment: Experiment, loaded: LoadedModel, task: str, seed: int) -> Iterator[Prompt]:
    yield from _prompts(experiment, loaded, task, seed, experiment.ruler.samples, 0)


def validation_prompts(
    experiment: Experiment, loaded: LoadedModel, task: str, count: int, offset: int = 0
) -> Iterator[Prompt]:
    """Prompts for the game. Different offsets give different prompts."""
    yield from _prompts(experiment, loaded, task, experiment.seeds[0], count, VALIDATION_OFFSET + offset)


def _prompts(
    experiment: Experiment, loaded: LoadedModel, task: str, seed: int, count: int, offset: int
) -> Iterator[Prompt]:
    spec = experiment.ruler
    sources = _sources(spec.essays, tuple(sorted(spec.questions.items())))
    tokenizer: Any = loaded.tokenizer
    for sample in ruler_generate.generate(task, tokenizer, spec.length, count, seed, spec.preset, sources, offset):
        yield _prompt(sample, loaded, experiment.protocol.query_aware)


def _prompt(sample: Sample, loaded: LoadedModel, query_aware: bool) -> Prompt:
    context, question = sample.context, sample.question + sample.answer_prefix
    if query_aware:
        context, question = context + question, ""
    ids = _encode(loaded.tokenizer, context, special=True)
    return Prompt(
        benchmark="ruler",
        task=sample.task,
        sample_id=sample.sample_id,
        seed=sample.seed,
        context_ids=ids,
        question_ids=_encode(loaded.tokenizer, question, special=False) if question else None,
        references=sample.outputs,
        stop=Stop(sample.tokens_to_generate, loaded.eos_ids),
        metric=functools.partial(score, sample.metric),
        notes=sample.notes,
    )


def text_of(loaded: LoadedModel, tokens: list[int]) -> str:
    """An answer as the metrics read it: without special tokens."""
    text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    assert isinstance(text, str), "one answer at a time"
    return text


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> torch.Tensor:
    return torch.tensor(tokenizer.encode(text, add_special_tokens=special), dtype=torch.int64)
