"""The sample stage: every (method, budget) on every test sample, in this process or by workers.

All (method, budget) pairs share one prefill per sample and decode together. Their records are written at once, so a
kill loses at most the samples in flight, one per worker. Workers finish in any order; the finished file is sorted in
the order of the plan, so that the metrics of any two runs are the same, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cokv.cache.prefill import Prefill
from cokv.cluster import InProcess, MakeWorker, Pool, Worker
from cokv.decode.session import FirstToken
from cokv.model.loading import LoadedModel
from cokv.types import CokvError, HeadScores
from suite.errors import SuiteError
from suite.heads.games import load_on
from suite.profiles.run_profiles import NoProfile, Profiles
from suite.run.answers import Request, answer
from suite.run.cells import GridCell, grid_cells
from suite.run.folder import RunFolder
from suite.run.progress import progress
from suite.spec import Experiment
from suite.tasks.benchmarks import seeds_of, task_names, test_count, test_prompts
from suite.tasks.prompt import Prompt, text_of

PREDICTIONS = "predictions.jsonl"
Block = tuple[str, int, int]  # task, seed, index among their samples
Answer = tuple[str, list[dict[str, Any]]]  # sample_id and its records; none if they are already written


@dataclass(frozen=True)
class SampleWorker:
    """Makes a worker in its own process, where it loads the model on its device."""

    experiment: Experiment
    scores: Mapping[str, HeadScores]  # per task
    profiles: Profiles
    finished: frozenset[tuple[str, str]]  # task, sample_id

    def __call__(self, device: str) -> Worker:
        return self.on(load_on(self.experiment, device))

    def on(self, loaded: LoadedModel) -> Worker:
        grid, first = grid_cells(self.experiment), self.experiment.protocol.first_token
        source = _Prompts(self.experiment, loaded)

        def work(block: Block) -> Answer:
            prompt = source.get(*block)
            if (prompt.task, prompt.sample_id) in self.finished:
                return prompt.sample_id, []
            scores = self.scores.get(prompt.task)
            return prompt.sample_id, list(run_sample(loaded, prompt, grid, scores, self.profiles, first))

        return work


class _Prompts:
    """Test samples by index, generated in order, each once."""

    def __init__(self, experiment: Experiment, loaded: LoadedModel) -> None:
        self.experiment, self.loaded = experiment, loaded
        self.prompts: dict[tuple[str, int], list[Prompt]] = {}
        self.remaining: dict[tuple[str, int], Iterator[Prompt]] = {}

    def get(self, task: str, seed: int, index: int) -> Prompt:
        group = (task, seed)
        if group not in self.prompts:
            self.prompts[group] = []
            self.remaining[group] = test_prompts(self.experiment, self.loaded, task, seed)
        while len(self.prompts[group]) <= index:
            self.prompts[group].append(next(self.remaining[group]))
        return self.prompts[group][index]


def run_samples(
    experiment: Experiment,
    loaded: LoadedModel,
    folder: RunFolder,
    scores: Mapping[str, HeadScores],
    profiles: Profiles,
    pool: Pool,
) -> None:
    """Writes the missing records of predictions.jsonl. scores: Shapley values per task; profiles: those per model."""
    finished = _finished(folder, len(grid_cells(experiment)))
    planned: list[Block] = [
        (task, seed, index)
        for task in task_names(experiment)
        for seed in seeds_of(experiment, task)
        for index in range(test_count(experiment, task))
    ]
    blocks = in_rounds(planned)
    worker = SampleWorker(experiment, scores, profiles, frozenset(finished))
    make_worker: MakeWorker = (lambda _: worker.on(loaded)) if isinstance(pool, InProcess) else worker
    ids: dict[int, tuple[str, str]] = {}
    with folder.appender(PREDICTIONS) as append, progress("samples", len(blocks), len(finished)) as report:
        for index, (sample_id, records) in pool.map_blocks(make_worker, blocks):
            ids[index] = blocks[index][0], sample_id
            if records:
                append(records)
                report.advance(note=blocks[index][0])
    by_block = {blocks[index]: sample for index, sample in ids.items()}
    _sort_records(folder, {by_block[block]: place for place, block in enumerate(planned)})


def in_rounds(blocks: list[Block]) -> list[Block]:
    """Every task's first sample, then every task's second: a run that is not finished says something of all tasks."""
    seen: Counter[str] = Counter()
    rounds = []
    for block in blocks:
        rounds.append(seen[block[0]])
        seen[block[0]] += 1
    return [block for _, block in sorted(zip(rounds, blocks, strict=True), key=lambda pair: pair[0])]


def _finished(folder: RunFolder, cells_per_sample: int) -> set[tuple[str, str]]:
    """Samples with all their records. A crash may leave only some of a sample's: these are dropped, to be redone."""
    records = folder.lines(PREDICTIONS, ("task", "sample_id", "method", "kv_budget"))
    counts = Counter((r["task"], r["sample_id"]) for r in records)
    complete = {sample for sample, count in counts.items() if count == cells_per_sample}
    if len(complete) < len(counts):
        folder.rewrite(PREDICTIONS, [r for r in records if (r["task"], r["sample_id"]) in complete])
    return complete


def _sort_records(folder: RunFolder, order: Mapping[tuple[str, str], int]) -> None:
    """Sorts samples in the order of the plan; the records of one sample keep their order."""
    records = folder.lines(PREDICTIONS)
    indices = [order[r["task"], r["sample_id"]] for r in records]
    if indices != sorted(indices):
        folder.rewrite(PREDICTIONS, sorted(records, key=lambda r: order[r["task"], r["sample_id"]]))


def run_sample(
    loaded: LoadedModel,
    prompt: Prompt,
    grid: list[GridCell],
    scores: HeadScores | None,
    profiles: Profiles | None = None,
    first_token: FirstToken = "prefill",
) -> Iterator[dict[str, Any]]:
    """One record per cell of the grid, from one prefill. Where a method cannot meet its budget, or has no profile on
    this model, the record has the reason; any other error stops the run and names the sample.

    scores: the task's Shapley values; profiles: those per model.
    """
    profiles = profiles or Profiles()
    requests: dict[GridCell, Request] = {}
    unsupported: dict[GridCell, str] = {}
    for cell in grid:
        try:
            requests[cell] = Request(cell.method, cell.kv_budget, profiles.of(cell.method, scores))
        except NoProfile as error:
            unsupported[cell] = str(error)
    try:
        read, answers = answer(
            loaded, prompt.context_ids, list(requests.values()), prompt.stop, prompt.question_ids, first_token
        )
    except CokvError as error:
        raise SuiteError(f"{prompt.task}, sample {prompt.sample_id}: {error}") from error
    if prompt.question_ids is not None:  # read on the compressed cache, where the first token then comes from
        first_token = "compressed"
    results = dict(zip(requests, answers, strict=True))
    for cell in grid:
        result = results.get(cell)
        budget = cell.kv_budget
        slots = result.kv_slots if result else budget.of(read.seq_len) if budget else None
        record = _shared_fields(prompt, cell, slots, read, loaded, first_token)
        if result is None:
            yield {**record, "score": None, "infeasible": None, "unsupported": unsupported[cell]}
            continue
        if result.decoded is None:
            yield {**record, "score": None, "infeasible": result.infeasible}
            continue
        decoded, text = result.decoded, text_of(loaded, result.decoded.tokens)
        yield {
            **record,
            "prediction": text,
            "generated_tokens": len(decoded.tokens),
            "score": prompt.metric(text, prompt.references),
            "infeasible": None,
            "kept_tokens": decoded.kept_tokens,
            "kept_bytes": decoded.kept_bytes,
            "slack_bytes": decoded.slack_bytes,
            **({"host_bytes": decoded.host_bytes} if decoded.host_bytes else {}),
            **({"facts": dict(result.facts)} if result.facts else {}),
        }


def _shared_fields(
    prompt: Prompt, cell: GridCell, kv_slots: int | None, read: Prefill, loaded: LoadedModel, first_token: FirstToken
) -> dict[str, Any]:
    """The fields of a record that feasible and infeasible cells share."""
    return {
        "benchmark": prompt.benchmark,
        "task": prompt.task,
        "seed": prompt.seed,
        "sample_id": prompt.sample_id,
        "method": cell.method.name,
        "preset": cell.method.variant,
        "kv_budget": cell.nominal,
        "kv_slots": kv_slots,
        "prompt_tokens": prompt.prompt_tokens,
        "references": list(prompt.references),
        "full_bytes": read.full_bytes,
        "query_aware": prompt.question_ids is None,
        "first_token": first_token,
        **({} if prompt.all_classes is None else {"all_classes": list(prompt.all_classes)}),
        **({"groups": prompt.groups} if prompt.groups else {}),
        "notes": [*prompt.notes, *loaded.shape.notes],
    }
