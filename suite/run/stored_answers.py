"""Which stored answers of a run folder its experiment asks for; the others stay beside them.

An answer is one record: a cell (a method at a budget) on one sample. Its identity is the sample, the method, the
budget, and a digest of what can change this cell's answers beside what the whole folder shares: the method with every
parameter, the content of its profile, the task's own files. `predictions.jsonl` holds what the experiment asks for, and
is what everything reads. An answer that it no longer asks for goes to `other_predictions.jsonl`, and comes back when it
is asked for again, so that no answer is lost or computed twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from cokv.game.identity import digest
from cokv.methods.method import Method
from cokv.types import JSON, HeadScores
from suite.profiles.run_profiles import Profiles, profile_content
from suite.run.cells import GridCell, grid_cells
from suite.run.folder import RunFolder
from suite.spec import Experiment
from suite.tasks.benchmarks import seeds_of, task_identity, task_names

PREDICTIONS, OTHERS = "predictions.jsonl", "other_predictions.jsonl"
FIELDS = ("task", "seed", "sample_id", "method", "preset", "kv_budget", "cell")  # an answer's identity

Record: TypeAlias = dict[str, Any]
Sample: TypeAlias = tuple[str, int, str]  # task, seed, sample_id
CellKey: TypeAlias = tuple[str, str, int | str | None, str]  # method, variant, budget, digest


class AskedCells:
    """The cells that an experiment asks for on every sample, with the digests of their identity."""

    def __init__(self, experiment: Experiment, scores: Mapping[str, HeadScores], profiles: Profiles) -> None:
        self.grid = grid_cells(experiment)
        self.seeds = {task: seeds_of(experiment, task) for task in task_names(experiment)}
        methods = dict.fromkeys(cell.method for cell in self.grid)
        self.digests: dict[str, list[str]] = {}  # by task, in the order of the grid
        for task in self.seeds:
            files = task_identity(experiment, task)
            of_method = {m: _digest(m, profile_content(m, scores.get(task), profiles), files) for m in methods}
            self.digests[task] = [of_method[cell.method] for cell in self.grid]

    @cached_property
    def _indices(self) -> dict[str, dict[CellKey, int]]:
        return {
            task: {_key(cell, own): i for i, (cell, own) in enumerate(zip(self.grid, digests, strict=True))}
            for task, digests in self.digests.items()
        }

    def index(self, record: Record) -> int | None:
        """The place in the grid of a record's cell; None if the experiment does not ask for it."""
        if record["seed"] not in self.seeds.get(record["task"], ()):
            return None
        key = record["method"], record["preset"], record["kv_budget"], record["cell"]
        return self._indices[record["task"]].get(key)


def _key(cell: GridCell, own: str) -> CellKey:
    return cell.method.name, cell.method.variant, cell.nominal, own


def _digest(method: Method, profile: JSON, files: JSON) -> str:
    return digest({"method": method.spec(), "profile": profile, "files": files})


def sample_of(record: Record) -> Sample:
    return record["task"], record["seed"], record["sample_id"]


def bring_back(folder: RunFolder, asked: AskedCells) -> dict[Sample, frozenset[int]]:
    """Puts stored answers into the file they belong to. Returns which cells of the grid each sample has."""
    cells: dict[Sample, set[int]] = defaultdict(set)
    for record in _divide(folder, lambda record: asked.index(record) is not None):
        index = asked.index(record)
        assert index is not None
        cells[sample_of(record)].add(index)
    return {sample: frozenset(indices) for sample, indices in cells.items()}


def arrange(folder: RunFolder, asked: AskedCells, samples: Sequence[Sample]) -> None:
    """Leaves the answers of these samples in predictions.jsonl, in the order of samples, then of the grid."""
    place = {sample: number for number, sample in enumerate(samples)}
    records = _divide(folder, lambda record: sample_of(record) in place and asked.index(record) is not None)
    ordered = sorted(records, key=lambda record: (place[sample_of(record)], asked.index(record)))
    if ordered != records:
        folder.rewrite(PREDICTIONS, ordered)


def _divide(folder: RunFolder, is_asked: Callable[[Record], bool]) -> list[Record]:
    """Divides all stored answers between the two files, each once; returns those that are asked for.

    A file that takes answers is written before they leave the other: a kill leaves some in both, and none in neither.
    """
    here, there = folder.lines(PREDICTIONS, FIELDS), folder.lines(OTHERS, FIELDS)
    every = {tuple(record[name] for name in FIELDS): record for record in (*here, *there)}
    asked = [record for record in every.values() if is_asked(record)]
    others = [record for record in every.values() if not is_asked(record)]
    if not all(map(is_asked, here)):
        there = [*others, *filter(is_asked, there)]
        folder.rewrite(OTHERS, there)
    if asked != here:
        folder.rewrite(PREDICTIONS, asked)
    if others != there:
        folder.rewrite(OTHERS, others)
    return asked
