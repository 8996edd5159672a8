"""The generated LongBench stand-ins as prompts of the suite: official protocol and metrics, our data and wording.

Nothing is truncated, since every sample is generated to fit, and no chat template is used.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cokv.model.loading import LoadedModel
from longbench.metrics import sample_score
from longbench.mini import generate as mini
from longbench.presets import get_preset
from suite.spec import LongBenchMiniSpec
from suite.tasks.longbench_tasks import tokenize
from suite.tasks.prompt import VALIDATION_OFFSET, Prompt, chat_notes

BENCHMARK = "longbench_mini"
PROTOCOL = replace(get_preset("official"), max_length=None, max_lengths=(), chat="never")


def identity() -> dict[str, Any]:
    """The generators' version and a checksum of the wording."""
    return {"version": mini.VERSION, **mini.templates().to_record()}


def shared_identity(spec: LongBenchMiniSpec) -> dict[str, Any]:
    """What determines the samples of all tasks alike."""
    return {"length": spec.length, **identity()}


def prompts(
    spec: LongBenchMiniSpec, loaded: LoadedModel, task: str, count: int, seed: int, query_aware: bool, validation: bool
) -> Iterator[Prompt]:
    """`count` samples. A test sample and a validation sample never share a seed stream."""
    tokenizer: Any = loaded.tokenizer
    offset = VALIDATION_OFFSET if validation else 0
    for sample in mini.generate(task, tokenizer, spec.length - 1, count, seed, offset):  # a token for <bos>
        yield _prompt(task, sample, loaded, seed, query_aware)


def _prompt(task: str, sample: mini.MiniSample, loaded: LoadedModel, seed: int, query_aware: bool) -> Prompt:
    _, tokens = tokenize(replace(PROTOCOL, query_aware=query_aware), mini.templates(), task, sample.record, loaded)
    classes = sample.record["all_classes"]
    all_classes = None if classes is None else tuple(classes)
    return Prompt(
        benchmark=BENCHMARK,
        task=task,
        sample_id=sample.record["_id"],
        seed=seed,
        references=tuple(sample.record["answers"]),
        metric=functools.partial(_metric, task, all_classes),
        notes=(mini.NOTE, *chat_notes(loaded.tokenizer, wrapped=False)),
        all_classes=all_classes,
        **tokens,
    )


def _metric(task: str, all_classes: tuple[str, ...] | None, text: str, references: tuple[str, ...]) -> float:
    """The data set's official metric, in percent."""
    return 100 * sample_score(task, text, references, all_classes)
