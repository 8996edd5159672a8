"""Answers for the checks: every arm of every check on every test sample, all rows of one decode from one prefill.

An arm is a method with parameters, a budget, a profile, and where the first token comes from. A sample's answers are
one line of checks.jsonl, so that a killed run continues; a line of other arms is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from cokv.cache.policies.base import Policy
from cokv.cluster import InProcess, Pool, Worker
from cokv.decode.decode import Decoded, decode
from cokv.decode.session import FirstToken
from cokv.game.identity import digest
from cokv.methods.method import Method
from cokv.methods.registry import get_method
from cokv.model.loading import LoadedModel
from cokv.types import CokvError, FloatArray, HeadScores, KVBudget
from suite.checks.context import Context, samples_of
from suite.errors import SuiteError
from suite.heads.games import load_on
from suite.run.answers import Request, compress_prompt
from suite.run.folder import RunFolder
from suite.run.progress import progress
from suite.spec import Experiment
from suite.tasks.prompt import Prompt, text_of

ANSWERS = "checks.jsonl"


@dataclass(frozen=True, eq=False)
class Arm:
    """One way to answer. kv_budget: slots per head, a share of the prompt, or None for a method that takes none."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    kv_budget: int | str | None = None
    profile: HeadScores | None = None
    first_token: FirstToken = "prefill"
    policy: Policy | None = None  # in place of the method's own

    def build(self) -> Method:
        method = get_method(self.method, **self.params)
        return method if self.policy is None else replace(method, policy=self.policy, ours=True)

    def refusal(self, loaded: LoadedModel) -> str:
        """Why no prompt could be answered this way: a budget or profile that the method refuses; "" if none."""
        shape = loaded.shape
        try:
            method = self.build()
            method.check(self.kv_budget, shape.num_layers, shape.num_kv_heads, self.profile, shape.group_size)
        except CokvError as error:
            return str(error)
        return ""

    def facts(self) -> dict[str, Any]:
        """All that can change its answers, beside the prompt and the model."""
        values = None if self.profile is None else self.profile.values.tolist()
        return {
            "method": self.build().spec(),
            "kv_budget": self.kv_budget,
            "profile": values,
            "first_token": self.first_token,
        }


Arms: TypeAlias = Mapping[str, Arm]
"""By name: "<check>/<name>"."""
Block: TypeAlias = tuple[str, int]  # task, index of the sample
Outcome: TypeAlias = dict[str, Any]  # score in percent, bytes, slots per head or None; or infeasible: why


@dataclass(frozen=True)
class AnswersWorker:
    """Makes a worker: loads the model on its device, and answers one sample with all arms of its task."""

    experiment: Experiment
    arms: Mapping[str, Arms]  # by task

    def __call__(self, device: str) -> Worker:
        return self.on(load_on(self.experiment, device))

    def on(self, loaded: LoadedModel) -> Worker:
        prompts: dict[str, list[Prompt]] = {}

        def work(block: Block) -> dict[str, Outcome]:
            task, index = block
            if task not in prompts:
                prompts.clear()
                prompts[task] = samples_of(self.experiment, loaded, task)
            return answer_all(loaded, prompts[task][index], self.arms[task])

        return work


def answer_all(loaded: LoadedModel, prompt: Prompt, arms: Arms) -> dict[str, Outcome]:
    """Outcomes by arm, from one prefill: all arms with one source of the first token are rows of one decode."""
    requests = {
        name: Request(arm.build(), None if arm.kv_budget is None else KVBudget.parse(arm.kv_budget), arm.profile)
        for name, arm in arms.items()
    }
    try:
        read, compressed = compress_prompt(loaded, prompt.context_ids, list(requests.values()))
    except CokvError as error:
        raise SuiteError(f"{prompt.task}, sample {prompt.sample_id}: {error}") from error
    results = dict(zip(arms, compressed, strict=True))
    outcomes: dict[str, Outcome] = {name: {"infeasible": r.infeasible} for name, r in results.items() if r.row is None}
    for first_token in dict.fromkeys(arm.first_token for arm in arms.values()):
        rows = {n: r.row for n, r in results.items() if r.row is not None and arms[n].first_token == first_token}
        decoded = decode(
            loaded.model,
            read,
            list(rows.values()),
            prompt.stop,
            suffix=prompt.question_ids,
            **({} if prompt.question_ids is not None else {"first_token": first_token}),  # type: ignore[arg-type]
        )
        outcomes |= {
            n: {**_outcome(loaded, prompt, one), "slots": results[n].kv_slots}
            for n, one in zip(rows, decoded, strict=True)
        }
    return {name: outcomes[name] for name in arms}


def _outcome(loaded: LoadedModel, prompt: Prompt, decoded: Decoded) -> Outcome:
    score = prompt.metric(text_of(loaded, decoded.tokens), prompt.references)
    return {"score": score, "bytes": decoded.kept_bytes}


@dataclass(frozen=True)
class Answered:
    """All outcomes: by task, a list over samples of outcomes by arm."""

    by_task: Mapping[str, Sequence[Mapping[str, Outcome]]]
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by task and arm, why it was not tried

    def tasks_of(self, *arms: str) -> list[str]:
        """The tasks whose samples are answered by all of these arms."""
        return [task for task, samples in self.by_task.items() if samples and samples[0].keys() >= set(arms)]

    def infeasible(self, arm: str) -> str:
        """Why some sample that was tried has no answer by this arm; "" if all have."""
        reasons = [o[arm]["infeasible"] for s in self.by_task.values() for o in s if "infeasible" in o.get(arm, {})]
        return reasons[0] if reasons else ""

    def why_not(self, *arms: str) -> dict[str, str]:
        """By task, why it was not answered by all of these arms."""
        reasons = {task: [names[arm] for arm in arms if arm in names] for task, names in self.refused.items()}
        return {task: first[0] for task, first in reasons.items() if first}

    def scores(self, arm: str, tasks: Sequence[str]) -> dict[str, FloatArray]:
        return {task: np.array([outcome[arm]["score"] for outcome in self.by_task[task]]) for task in tasks}

    def mean(self, what: str, arm: str, tasks: Sequence[str]) -> float | None:
        """Of `bytes` or `slots`, over all samples; None for an arm that has none."""
        values = [outcome[arm][what] for task in tasks for outcome in self.by_task[task]]
        return None if None in values else float(np.mean(values))


def answer_samples(
    context: Context,
    folder: RunFolder,
    arms: Mapping[str, Arms],
    pool: Pool,
    refused: Mapping[str, Mapping[str, str]] | None = None,
) -> Answered:
    """Answers what is missing in checks.jsonl, and returns all. arms: by task; refused: those that no prompt could be
    answered by, with the reason.
    """
    experiment, loaded = context.experiment, context.loaded
    settings = {task: digest({name: arm.facts() for name, arm in by_name.items()}) for task, by_name in arms.items()}
    lines = folder.lines(ANSWERS, ("setting", "task", "index", "outcomes"))
    known = {
        (line["task"], line["index"]): line["outcomes"]
        for line in lines
        if settings.get(line["task"]) == line["setting"]
    }
    counts = {task: len(samples_of(experiment, loaded, task)) for task in arms}
    blocks: list[Block] = [(task, index) for task in arms if arms[task] for index in range(counts[task])]
    missing = [block for block in blocks if block not in known]
    worker = AnswersWorker(experiment, arms)
    make_worker = (lambda _: worker.on(loaded)) if isinstance(pool, InProcess) else worker
    with (
        folder.appender(ANSWERS) as append,
        progress("checks: answers", len(blocks), len(blocks) - len(missing)) as report,
    ):
        for number, outcomes in pool.map_blocks(make_worker, missing):
            task, index = known_key = missing[number]
            known[known_key] = outcomes
            append([{"setting": settings[task], "task": task, "index": index, "outcomes": outcomes}])
            report.advance(note=task)
    return Answered(
        {task: [known[task, index] for index in range(counts[task])] for task in arms if arms[task]}, refused or {}
    )
