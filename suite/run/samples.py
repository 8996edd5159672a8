"""The sample stage: every (method, budget) on every test sample, in this process or by workers.

All (method, budget) pairs that a sample lacks share one prefill and decode together. Their records are written at once,
so a kill loses at most the samples in flight, one per worker. Workers finish in any order; the finished file is sorted
in the order of the plan, so that the metrics of any two runs are the same, byte for byte.

A run that has grown answers as one run of the whole does, up to rounding: how many rows share a batch decides the sizes
of matrix products, whose last bits differ. A token can change only where its two best logits lie as close as that,
about 1e-5 in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from suite.run.answers import Compressed, Request, answer
from suite.run.cells import GridCell, grid_cells
from suite.run.folder import RunFolder
from suite.run.progress import progress
from suite.run.shown import Shown, shower, shown
from suite.run.stored_answers import PREDICTIONS, AskedCells, Sample, arrange, bring_back
from suite.spec import Experiment
from suite.tasks.benchmarks import seeds_of, task_names, test_count, test_prompts
from suite.tasks.prompt import Prompt, text_of

Block = tuple[str, int, int]  # task, seed, index among their samples
# A sample, its new records (none if all are stored), and what is shown of it.
Answer = tuple[Sample, list[dict[str, Any]], Shown | None]


@dataclass(frozen=True)
class SampleWorker:
    """Makes a worker in its own process, where it loads the model on its device."""

    experiment: Experiment
    scores: Mapping[str, HeadScores]  # per task
    profiles: Profiles
    digests: Mapping[str, Sequence[str]]  # by task, of the identity of each cell of the grid
    stored: Mapping[Sample, frozenset[int]]  # places in the grid of the cells that a sample has

    def __call__(self, device: str) -> Worker:
        return self.on(load_on(self.experiment, device))

    def on(self, loaded: LoadedModel) -> Worker:
        grid, first = grid_cells(self.experiment), self.experiment.protocol.first_token
        source = _Prompts(self.experiment, loaded)

        def work(block: Block) -> Answer:
            prompt = source.get(*block)
            sample = prompt.task, prompt.seed, prompt.sample_id
            missing = [i for i in range(len(grid)) if i not in self.stored.get(sample, ())]
            if not missing:
                return sample, [], None
            cells, scores = [grid[i] for i in missing], self.scores.get(prompt.task)
            digests = dict(zip(cells, (self.digests[prompt.task][i] for i in missing), strict=True))
            results: dict[GridCell, Compressed] = {}
            records = list(run_sample(loaded, prompt, cells, scores, self.profiles, first, results.update))
            with_kept = block[1] == self.experiment.seeds[0] and block[2] < self.experiment.shown_samples
            return (
                sample,
                [{**record, "cell": digests[cell]} for cell, record in zip(cells, records, strict=True)],
                shown(loaded, prompt, results, digests, with_kept),
            )

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
    asked = AskedCells(experiment, scores, profiles)
    stored = bring_back(folder, asked)
    planned: list[Block] = [
        (task, seed, index)
        for task in task_names(experiment)
        for seed in seeds_of(experiment, task)
        for index in range(test_count(experiment, task))
    ]
    blocks = in_rounds(planned)
    worker = SampleWorker(experiment, scores, profiles, asked.digests, stored)
    make_worker: MakeWorker = (lambda _: worker.on(loaded)) if isinstance(pool, InProcess) else worker
    finished = sum(len(cells) == len(asked.grid) for cells in stored.values())
    samples: dict[int, Sample] = {}
    with (
        folder.appender(PREDICTIONS) as append,
        shower(folder) as show,
        progress("samples", len(blocks), min(finished, len(blocks))) as report,
    ):
        for index, (sample, records, to_show) in pool.map_blocks(make_worker, blocks):
            samples[index] = sample
            if to_show is not None:  # first, so that a kill leaves no answers without their prompt
                show(to_show)
            if records:
                append(records)
                report.advance(note=blocks[index][0])
    by_block = {blocks[index]: sample for index, sample in samples.items()}
    arrange(folder, asked, [by_block[block] for block in planned])


def in_rounds(blocks: list[Block]) -> list[Block]:
    """Every task's first sample, then every task's second: a run that is not finished says something of all tasks."""
    seen: Counter[str] = Counter()
    rounds = []
    for block in blocks:
        rounds.append(seen[block[0]])
        seen[block[0]] += 1
    return [block for _, block in sorted(zip(rounds, blocks, strict=True), key=lambda pair: pair[0])]


def run_sample(
    loaded: LoadedModel,
    prompt: Prompt,
    grid: Sequence[GridCell],
    scores: HeadScores | None,
    profiles: Profiles | None = None,
    first_token: FirstToken = "prefill",
    see: Callable[[Mapping[GridCell, Compressed]], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """One record per cell of the grid, from one prefill. Where a method cannot meet its budget, or has no profile on
    this model, the record has the reason; any other error stops the run and names the sample.

    scores: the task's Shapley values; profiles: those per model; see: receives what each cell keeps.
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
    if see is not None:
        see(results)
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
        "notes": [*prompt.notes, *loaded.notes],
    }
