"""RULER samples as prompts of the suite: prepared by the official generator, or generated for the model's tokenizer."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

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
from suite.tasks.ruler_text import RulerText


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
    wording = hashlib.sha256(resources.files("ruler").joinpath("wording.toml").read_bytes()).hexdigest()
    sources = {
        **_essays(spec),
        **_checksums({f"questions/{task}": Path(path) for task, path in spec.questions.items()}),
    }
    if spec.data is not None:
        sources |= {f"data/{task}": _data_checksum(spec, spec.data, task) for task in spec.tasks}
    return {"version": ruler_generate.VERSION, "wording": wording, "sources": sources}


def shared_identity(spec: RulerSpec) -> dict[str, Any]:
    """What determines the samples of all tasks alike."""
    facts: dict[str, Any] = {
        "preset": spec.preset,
        "length": spec.length,
        "prepared": spec.data is not None,
        "chat": spec.chat,
        "max_new_tokens": spec.max_new_tokens,
    }
    if spec.chat_arguments:
        facts["chat_arguments"] = dict(spec.chat_arguments)
    return {**facts, **identity(spec), "sources": _essays(spec)}


def task_identity(spec: RulerSpec, task: str) -> dict[str, str]:
    """Checksums of the files that determine one task's samples alone."""
    sums = _checksums({"questions": Path(spec.questions[task])} if task in spec.questions else {})
    return sums if spec.data is None else {**sums, "data": _data_checksum(spec, spec.data, task)}


def _data_checksum(spec: RulerSpec, data: str, task: str) -> str:
    """Of a task's prepared file, or of its rows on the hub."""
    if spec.hub_revision is not None:
        return _hub_rows(data, spec.hub_revision, task, spec.length).sha256
    return hashlib.sha256(_file(data, task, spec.length).read_bytes()).hexdigest()


def _essays(spec: RulerSpec) -> dict[str, str]:
    essays = () if spec.essays is None else essay_files(spec.essays)
    return _checksums({f"essays/{file.name}": file for file in essays})


def _checksums(files: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}


def prompts(
    spec: RulerSpec, loaded: LoadedModel, task: str, count: int, seed: int, query_aware: bool, validation: bool
) -> Iterator[Prompt]:
    """`count` samples. A test sample and a validation sample never share a seed stream, nor a question of a file."""
    check(spec, count if validation else 0)
    text = RulerText.of(spec, loaded.tokenizer)
    if spec.data is not None:
        samples = _prepared(spec.data, spec.hub_revision, task, spec.length, seed)
        for sample in samples[: -count - 1 : -1] if validation else samples[:count]:
            yield _prompt(spec, sample, text, loaded, query_aware)
        return
    sources = _sources(spec.essays, tuple(sorted(spec.questions.items())))
    tokenizer: Any = loaded.tokenizer
    offset = VALIDATION_OFFSET if validation else 0
    for sample in ruler_generate.generate(
        task, tokenizer, spec.length, count, seed, spec.preset, sources, offset, validation, text.whole
    ):
        yield _prompt(spec, sample, text, loaded, query_aware)


def _prompt(spec: RulerSpec, sample: Sample, text: RulerText, loaded: LoadedModel, query_aware: bool) -> Prompt:
    context, question = text.parts(sample)
    if query_aware:
        context, question = context + question, ""
    ids = text.begin(context)
    if len(ids) > loaded.shape.context_length:
        raise RulerError(
            f"{sample.sample_id}: the prompt has {len(ids)} tokens, the model {loaded.shape.context_length} positions; "
            "prepare the data for this model's tokenizer, or choose a shorter length"
        )
    max_new_tokens = sample.tokens_to_generate
    shorter: tuple[str, ...] = ()
    if spec.max_new_tokens is not None and spec.max_new_tokens < max_new_tokens:
        shorter = (f"answers of at most {spec.max_new_tokens} tokens, not {max_new_tokens}",)
        max_new_tokens = spec.max_new_tokens
    return Prompt(
        benchmark="ruler",
        task=sample.task,
        sample_id=sample.sample_id,
        seed=sample.seed,
        context_ids=ids,
        question_ids=text.go_on(question) if question else None,
        references=sample.outputs,
        stop=Stop(max_new_tokens, loaded.eos_ids),
        metric=functools.partial(score, sample.metric),
        notes=(*sample.notes, *text.notes, *shorter),
        gold=sample.gold,
        answer_prefix=sample.answer_prefix,
    )
