"""RULER samples as prompts of the suite: prepared by the official generator, or generated for the model's tokenizer."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from cokv.decode.decode import Stop
from cokv.model.loading import LoadedModel
from ruler import generate as ruler_generate
from ruler.data import find_files, from_rows, read_file
from ruler.errors import RulerError
from ruler.essays import essay_files
from ruler.sample import Sample
from ruler.scoring import score
from suite.spec import RulerSpec
from suite.tasks.hub_rows import HubRows, read_rows, repo_of
from suite.tasks.prompt import VALIDATION_OFFSET, Prompt


@functools.cache
def _sources(essays: str | None, questions: tuple[tuple[str, str], ...]) -> ruler_generate.Sources:
    return ruler_generate.Sources.read(essays, {task: Path(path) for task, path in questions})


def _file(root: str, task: str, length: int) -> Path:
    """The one file of the official generator that holds this task at this length."""
    path = Path(root)
    if path.is_file():
        return path
    of_task = [file for file in find_files(path) if file.task == task]
    fitting = [file for file in of_task if file.length in (length, None)]
    if len(fitting) != 1:
        present = ", ".join(str(file.path.relative_to(path)) for file in of_task) or "none"
        raise RulerError(f"{root}: {len(fitting)} files of {task} at length {length}; got {present}; expected one")
    return fitting[0].path


@functools.lru_cache(maxsize=16)
def _prepared(root: str, revision: str | None, task: str, length: int, seed: int) -> tuple[Sample, ...]:
    if revision is None:
        return tuple(read_file(_file(root, task, length), task, seed))
    read = _hub_rows(root, revision, task, length)
    return tuple(from_rows(read.rows, task, length, read.source, seed))


def _hub_rows(data: str, revision: str, task: str, length: int) -> HubRows:
    repo = repo_of(data)
    assert repo is not None, "the spec gives files no revision"
    return read_rows(repo, revision, str(length), "test", task)


def check(spec: RulerSpec, validation: int) -> None:
    """Refuses prepared data and question files too small for test samples and `validation` prompts that share nothing.

    Test samples are a file's first ones, or ask its first questions; validation prompts are, or ask, its last ones.
    """
    for task in spec.tasks if spec.data is not None else ():
        assert spec.data is not None
        count = len(_prepared(spec.data, spec.hub_revision, task, spec.length, 0))
        if spec.samples + validation > count:
            raise RulerError(
                f"{task}: {spec.samples} test samples and {validation} validation prompts asked, but {spec.data} has "
                f"{count} and none may serve both; ask for fewer, or prepare more"
            )
    sources = _sources(spec.essays, tuple(sorted(spec.questions.items())))
    for task, source in (sources.questions or {}).items():
        if task in spec.tasks and spec.samples + validation > len(source.questions):
            raise RulerError(
                f"{task}: {spec.samples} test samples and {validation} validation prompts asked, but its file has "
                f"{len(source.questions)} questions and none may serve both; ask for fewer, or give a longer file"
            )


def identity(spec: RulerSpec) -> dict[str, Any]:
    """The generators' version, and checksums of the wording and of the user's own text."""
    files = {f"questions/{task}": Path(path) for task, path in spec.questions.items()}
    if spec.essays is not None:
        files |= {f"essays/{file.name}": file for file in essay_files(spec.essays)}
    if spec.data is not None and spec.hub_revision is None:
        files |= {f"data/{task}": _file(spec.data, task, spec.length) for task in spec.tasks}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    if spec.data is not None and spec.hub_revision is not None:
        rows = {task: _hub_rows(spec.data, spec.hub_revision, task, spec.length) for task in spec.tasks}
        digests |= {f"data/{task}": read.sha256 for task, read in rows.items()}
    wording = hashlib.sha256(resources.files("ruler").joinpath("wording.toml").read_bytes()).hexdigest()
    return {"version": ruler_generate.VERSION, "wording": wording, "sources": digests}


def prompts(
    spec: RulerSpec, loaded: LoadedModel, task: str, count: int, seed: int, query_aware: bool, validation: bool
) -> Iterator[Prompt]:
    """`count` samples. A test sample and a validation sample never share a seed stream, nor a question of a file."""
    check(spec, count if validation else 0)
    if spec.data is not None:
        samples = _prepared(spec.data, spec.hub_revision, task, spec.length, seed)
        for sample in samples[: -count - 1 : -1] if validation else samples[:count]:
            yield _prompt(sample, loaded, query_aware)
        return
    sources = _sources(spec.essays, tuple(sorted(spec.questions.items())))
    tokenizer: Any = loaded.tokenizer
    offset = VALIDATION_OFFSET if validation else 0
    for sample in ruler_generate.generate(
        task, tokenizer, spec.length, count, seed, spec.preset, sources, offset, last_questions=validation
    ):
        yield _prompt(sample, loaded, query_aware)


def _prompt(sample: Sample, loaded: LoadedModel, query_aware: bool) -> Prompt:
    context, question = sample.context, sample.question + sample.answer_prefix
    if query_aware:
        context, question = context + question, ""
    ids = _encode(loaded.tokenizer, context, special=True)
    if len(ids) > loaded.shape.context_length:
        raise RulerError(
            f"{sample.sample_id}: the prompt has {len(ids)} tokens, the model {loaded.shape.context_length} positions; "
            "prepare the data for this model's tokenizer, or choose a shorter length"
        )
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
        gold=sample.gold,
    )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> torch.Tensor:
    return torch.tensor(tokenizer.encode(text, add_special_tokens=special), dtype=torch.int64)
