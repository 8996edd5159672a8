"""A run against the committed answers of an earlier one, cell by cell: what moved, and which records moved it.

`python -m reports.golden RUN FOLDER` compares every record of a run with `answers.parquet` in a results folder such as
benchmarks/results/embedded; `--write` stores a run's answers there. The run may hold a part of the samples, methods or
budgets. A cell has moved where its mean, on the samples that both have, differs by more than the interval of the whole
cell reaches to that side; an average over tasks likewise.

Does not know: whether a move is right. After a change that is meant to move numbers, the answers are stored again.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reports.aggregate import aggregate
from reports.errors import ReportError
from reports.kv_budget import Budget, budget_text
from reports.one_line import exit_code
from reports.records import Record, Variant, record_key, variant_of
from reports.rundir import load_run

ANSWERS = "answers.parquet"
COLUMNS = {
    **dict.fromkeys(("benchmark", "task", "sample_id", "method", "preset", "first_token", "kv_budget"), "string"),
    **dict.fromkeys(("infeasible", "unsupported", "prediction"), "string"),
    **dict.fromkeys(("seed", "kv_slots", "prompt_tokens", "kept_tokens"), "int64"),
    "query_aware": "bool_",
    "score": "float64",
}
SHOWN = 3  # records of a cell that are written out


@dataclass(frozen=True)
class Moved:
    """One cell (or one average, then `task` is empty) and both its means in percent on the same samples.

    reach: how far the interval of the committed cell goes to that side, in points. records: those that differ.
    """

    benchmark: str
    task: str
    variant: Variant
    kv_budget: Budget
    before: float
    after: float
    reach: float
    records: tuple[tuple[Record, Record], ...]

    def __str__(self) -> str:
        where = f"{self.benchmark}/{self.task}" if self.task else f"{self.benchmark}, average over tasks"
        name = self.variant.method + ("" if self.variant.preset == "normalized" else f" ({self.variant.preset})")
        lines = [
            f"{where}, {name}, kv_budget {budget_text(self.kv_budget)}: {self.before:.1f} before, {self.after:.1f} "
            f"now; its interval reaches {self.reach:.1f} points to that side"
        ]
        for old, new in self.records[:SHOWN]:
            lines.append(f"    {old['task']} {old['sample_id']} seed {old['seed']}: {_answer(old)} -> {_answer(new)}")
        if len(self.records) > SHOWN:
            lines.append(f"    and {len(self.records) - SHOWN} more")
        return "\n".join(lines)


@dataclass(frozen=True)
class Comparison:
    """compared: records that both have. changed: those whose score, answer or feasibility differs."""

    compared: int
    changed: tuple[tuple[Record, Record], ...]
    moved: tuple[Moved, ...]


def compare(committed: Iterable[Record], run: Iterable[Record]) -> Comparison:
    """Every record of the run that is among the committed ones, against it."""
    before = {record_key(record): record for record in committed}
    pairs = [(before[key], record) for record in run if (key := record_key(record)) in before]
    metrics = aggregate(before.values())
    reaches = {_cell(row): row for row in metrics["cells"]}
    by_cell: dict[Any, list[tuple[Record, Record]]] = defaultdict(list)
    for pair in pairs:
        by_cell[_cell(pair[0])].append(pair)
    moved = [
        move for key, members in by_cell.items() if (move := _moved_cell(key, members, reaches.get(key))) is not None
    ]
    moved += _moved_averages(by_cell, metrics["averages"])
    return Comparison(len(pairs), tuple(pair for pair in pairs if _differs(*pair)), tuple(moved))


def _cell(row: Mapping[str, Any]) -> tuple[str, str, Variant, Budget]:
    return row["benchmark"], row["task"], variant_of(row), row["kv_budget"]


def _differs(old: Record, new: Record) -> bool:
    return any(old.get(name) != new.get(name) for name in ("score", "prediction", "kept_tokens"))


def _changed(members: Sequence[tuple[Record, Record]]) -> tuple[tuple[Record, Record], ...]:
    return tuple(pair for pair in members if _differs(*pair))


def _means(members: Sequence[tuple[Record, Record]]) -> tuple[float, float] | None:
    scored = [(old["score"], new["score"]) for old, new in members if old["score"] is not None is not new["score"]]
    if not scored:
        return None
    before, after = np.mean(np.array(scored, dtype=np.float64), axis=0)
    return float(before), float(after)


def _reach(row: Mapping[str, Any] | None, before: float, after: float) -> float:
    if row is None or "low" not in row:
        return 0.0
    return float(row["high"] - row["mean"] if after > before else row["mean"] - row["low"])


def _moved_cell(key: Any, members: Sequence[tuple[Record, Record]], row: Mapping[str, Any] | None) -> Moved | None:
    benchmark, task, variant, budget = key
    scored = [(old["score"] is None, new["score"] is None) for old, new in members]
    means = _means(members)
    if any(old != new for old, new in scored):  # a budget can be met now and could not before, or the reverse
        before, after = (float(np.mean([not pair[side] for pair in scored])) * 100 for side in (0, 1))
        return Moved(benchmark, task, variant, budget, before, after, 0.0, _changed(members))
    if means is None or abs(means[1] - means[0]) <= (reach := _reach(row, *means)):
        return None
    return Moved(benchmark, task, variant, budget, *means, reach, _changed(members))


def _moved_averages(by_cell: Mapping[Any, Sequence[tuple[Record, Record]]], rows: Iterable[Any]) -> list[Moved]:
    """Averages over the tasks that the run has, each task with the same weight."""
    averages = {(row["benchmark"], variant_of(row), row["kv_budget"]): row for row in rows}
    tasks: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    members: dict[Any, list[tuple[Record, Record]]] = defaultdict(list)
    for (benchmark, _, variant, budget), pairs in by_cell.items():
        if (means := _means(pairs)) is not None:
            tasks[benchmark, variant, budget].append(means)
            members[benchmark, variant, budget] += pairs
    moved = []
    for key, means_by_task in tasks.items():
        before, after = map(float, np.mean(np.array(means_by_task), axis=0))
        reach = _reach(averages.get(key), before, after)
        if abs(after - before) > reach:
            benchmark, variant, budget = key
            moved.append(Moved(benchmark, "", variant, budget, before, after, reach, _changed(members[key])))
    return moved


def _answer(record: Record) -> str:
    if record["score"] is None:
        return f"no score ({record.get('infeasible') or record.get('unsupported')})"
    return f"{record['score']:.1f} {str(record.get('prediction'))[:60]!r}"


def write_answers(records: Iterable[Record], folder: Path) -> Path:
    """Stores what `compare` needs of each record in `folder`/answers.parquet."""
    import pyarrow
    from pyarrow import parquet

    rows = [{name: record.get(name) for name in COLUMNS} for record in records]
    for row in rows:
        row["kv_budget"] = None if row["kv_budget"] is None else str(row["kv_budget"])
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    path = folder / ANSWERS
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path, compression="zstd")
    return path


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """The committed records of a results folder."""
    from pyarrow import parquet

    path = folder / ANSWERS
    if not path.is_file():
        raise ReportError(f"{path} does not exist; store a run's answers there with --write")
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    for row in rows:
        budget = row["kv_budget"]
        row["kv_budget"] = int(budget) if budget is not None and budget.isdecimal() else budget
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reports.golden", description="Compare a run with stored answers.")
    parser.add_argument("run", type=Path, help="a run folder; an unfinished one will do")
    parser.add_argument("folder", type=Path, help="a results folder, such as benchmarks/results/embedded")
    parser.add_argument("--write", action="store_true", help="store the run's answers there")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _store(arguments) if arguments.write else _say_what_moved(arguments))


def _store(arguments: argparse.Namespace) -> None:
    print(write_answers(load_run(arguments.run, allow_unfinished=True).records, arguments.folder))


def _say_what_moved(arguments: argparse.Namespace) -> int:
    run = load_run(arguments.run, allow_unfinished=True)
    result = compare(read_answers(arguments.folder), run.records)
    for move in result.moved:
        print(move)
    print(f"{result.compared} records compared, {len(result.changed)} differ, {len(result.moved)} cells moved")
    return 1 if result.moved or not result.compared else 0


if __name__ == "__main__":
    raise SystemExit(main())
