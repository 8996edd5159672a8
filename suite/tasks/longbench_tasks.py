"""LongBench samples as prompts of the suite: official data and templates named by the user, a published protocol.

Which samples are validation (head scores may see them) and which are test is decided by stable sample id, so it does
not change with file order or with the number of samples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from cokv.decode.decode import Stop
from cokv.model.chat import has_chat_template, user_turn
from cokv.model.loading import LoadedModel
from longbench import data as longbench_data
from longbench.official import groups_of, judge_sample
from longbench.protocol import Protocol, TokenizedPrompt, answer_length, build_prompt, finish_prediction, stop_rule
from longbench.sources import OFFICIAL_REPOS, load_dataset, load_from_hub
from longbench.split import Split, split_ids
from longbench.subset import select_mini
from longbench.tasks import V2, base_name
from longbench.templates import Templates, files_for, read_templates
from suite.errors import SuiteError
from suite.spec import LongBenchSpec
from suite.tasks.hub_rows import read_rows, repo_of
from suite.tasks.prompt import Prompt, chat_notes

ALLOWANCE = 16  # tokens that a cut prompt may gain: its halves are tokenized again, joined


def dataset(spec: LongBenchSpec, task: str) -> longbench_data.DataSet:
    """The data set, from the user's folder or archive, or from the hub at its pinned revision; its subset, if asked."""
    return _read_dataset(spec.data, spec.hub_revision, task, spec.partial, spec.subset)


@functools.lru_cache(maxsize=32)
def _read_dataset(
    data: str | None, revision: str | None, task: str, partial: bool, subset: str | None
) -> longbench_data.DataSet:
    read = _whole(data, revision, task, partial or subset is not None)  # a subset is counted by itself
    return read if subset is None else select_mini(read, partial=partial)


def _whole(data: str | None, revision: str | None, task: str, partial: bool) -> longbench_data.DataSet:
    if data is None:
        return load_from_hub(task, partial=partial)
    repo = repo_of(data)
    if repo is None or revision is None:
        return load_dataset(data, task, partial=partial)
    if repo in OFFICIAL_REPOS:
        return load_from_hub(task, repo=repo, revision=revision, partial=partial)
    config, split = ("default", "train") if task == V2.name else (task, "test")
    read = read_rows(repo, revision, config, split)
    return longbench_data.from_rows(read.rows, task, read.source, read.sha256, partial=partial, revision=revision)


def _templates(spec: LongBenchSpec) -> Templates:
    return _read_templates(spec.templates, files_for(spec.tasks))


@functools.lru_cache(maxsize=4)
def _read_templates(folder: str, names: tuple[str, ...]) -> Templates:
    return read_templates(folder, names)


def check(spec: LongBenchSpec) -> None:
    """What can be refused before a model is loaded or anything is fetched: templates, then sources."""
    templates = _templates(spec)
    for task in spec.tasks:
        templates.prompt(task)
        templates.max_new_tokens(task)
    for task in spec.tasks if spec.data is not None else ():
        dataset(spec, task)


def identity(spec: LongBenchSpec) -> dict[str, Any]:
    """Checksums of data and templates, and the protocol field by field."""
    return {
        "data": {task: dataset(spec, task).to_record() for task in spec.tasks},
        "templates": _templates(spec).to_record(),
        "protocol": asdict(spec.resolved()),
    }


def shared_identity(spec: LongBenchSpec) -> dict[str, Any]:
    """What determines the prompts of all tasks alike. Which samples are test samples decides no answer to them."""
    return {"protocol": asdict(spec.resolved())}


def task_identity(spec: LongBenchSpec, task: str) -> dict[str, Any]:
    """Checksums of the files that determine one task's samples."""
    return {"data": dataset(spec, task).sha256, "templates": _read_templates(spec.templates, files_for([task])).sha256}


def prompts(
    spec: LongBenchSpec, loaded: LoadedModel, task: str, part: str, count: int | None, seed: int
) -> Iterator[Prompt]:
    """`part`: "validation" or "test" samples, in the split's own order, at most `count`."""
    by_id = {sample.id: sample for sample in dataset(spec, task).samples}
    split = _split(spec, task)
    ids = split.validation if part == "validation" else split.test
    for sample_id in ids[:count]:
        yield _prompt(spec, loaded, task, by_id[sample_id], seed)


def _split(spec: LongBenchSpec, task: str) -> Split:
    ids = [sample.id for sample in dataset(spec, task).samples]
    return split_ids(task, ids, seed=spec.split_seed, validation_share=spec.validation_share)


def test_count(spec: LongBenchSpec, task: str) -> int:
    """Test samples of a task: all that are not validation, at most the experiment's number."""
    split = _split(spec, task)
    return min(len(split.test), spec.samples or len(split.test))


def validation_count(spec: LongBenchSpec, task: str) -> int:
    return len(_split(spec, task).validation)


def _subset_note(spec: LongBenchSpec, task: str) -> str:
    split = _split(spec, task)
    return f"MiniLongBench: {task} has {len(split.test)} samples for test and {len(split.validation)} for validation"


def tokenize(
    protocol: Protocol, templates: Templates, task: str, record: dict[str, Any], loaded: LoadedModel
) -> tuple[TokenizedPrompt, dict[str, Any]]:
    """The prompt of one record, and the fields of a `Prompt` that follow from it: context, question, stop."""
    tokenizer: Any = loaded.tokenizer
    built = build_prompt(protocol, task, templates.prompt(task), record, tokenizer, loaded.name)
    rule = stop_rule(protocol, task, templates, tokenizer, loaded.eos_ids)
    ids = torch.tensor(built.input_ids, dtype=torch.int64)
    cut = len(ids) if built.context_tokens is None else built.context_tokens
    return built, {
        "context_ids": ids[:cut],
        "question_ids": ids[cut:] if cut < len(ids) else None,
        "stop": Stop(rule.max_new_tokens, rule.token_ids, rule.min_new_tokens),
    }


def longest_answer(spec: LongBenchSpec) -> int:
    """Tokens of an answer, at most, over the experiment's tasks."""
    return max(answer_length(spec.resolved(), task, _templates(spec)) for task in spec.tasks)


def remedy(spec: LongBenchSpec, loaded: LoadedModel) -> str:
    """The key that makes every task's prompts fit this model, with a value."""
    protocol, answer = spec.resolved(), longest_answer(spec)
    around = ALLOWANCE
    if protocol.chat != "never" and has_chat_template(loaded.tokenizer):
        around += len(loaded.tokenizer.encode(user_turn(loaded.tokenizer, ""), add_special_tokens=False))
    length = loaded.shape.context_length - answer - around
    if length < 2:
        return f"set [longbench.fields] max_new_tokens below {answer}, or choose a model with more positions"
    return f"set [longbench.fields] max_length = {length}, or choose a model with more positions"


def _prompt(spec: LongBenchSpec, loaded: LoadedModel, task: str, sample: longbench_data.Sample, seed: int) -> Prompt:
    protocol, record = spec.resolved(), dict(sample.record)
    built, tokens = tokenize(protocol, _templates(spec), task, record, loaded)
    positions = loaded.shape.context_length
    answer = tokens["stop"].max_new_tokens
    if len(built.input_ids) + answer > positions:
        how = "does not cut it for this model" if protocol.length_for(loaded.name) is None else "cuts it too long"
        raise SuiteError(
            f"{task} {sample.id}: the prompt has {len(built.input_ids)} tokens and the answer up to {answer}, the "
            f"model {positions} positions, and protocol {protocol.name!r} {how}; {remedy(spec, loaded)}"
        )

    def metric(text: str, references: tuple[str, ...]) -> float:
        final = finish_prediction(protocol, text, base_name(task))
        return 100 * judge_sample(task, final, references, sample.all_classes)

    return Prompt(
        benchmark="longbench",
        task=task,
        sample_id=sample.id,
        seed=seed,
        references=sample.answers,
        metric=metric,
        notes=(
            f"protocol {protocol.name}",
            *((f"{protocol.truncation}-truncated",) if built.truncated else ()),
            *((_subset_note(spec, task),) if spec.subset is not None else ()),
            *chat_notes(loaded.tokenizer, built.chat),
        ),
        all_classes=sample.all_classes,
        groups=groups_of(task, record),
        **tokens,
    )
