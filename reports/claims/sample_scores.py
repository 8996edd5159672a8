"""Every sample's score, by task and by line (budget and variant): from a run's records, or from a small file of them.

`scores.json` is what a published results folder keeps of predictions.jsonl, so that paired comparisons can be made
again without the answers. It belongs to the metrics.json beside it by the digest of the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reports.errors import ReportError
from reports.intervals import Floats
from reports.kv_budget import Budget, budget_order, is_budget
from reports.records import FULL, Record, Variant, is_number, sample_key, sorted_records, variant_of

FILE = "scores.json"
KIND = "scores of samples"
Task = tuple[str, str]  # benchmark, task
Line = tuple[Budget, Variant]


@dataclass(frozen=True)
class SampleScores:
    """score[task][line][place] of sample `samples[task][place]`; None where the line has none (infeasible)."""

    samples: Mapping[Task, tuple[str, ...]]
    scores: Mapping[Line, Mapping[Task, Sequence[float | None]]]

    @classmethod
    def of_records(cls, records: Iterable[Record]) -> SampleScores:
        ordered = sorted_records(records)
        keys: dict[Task, dict[tuple[int, str], int]] = {}
        for record in ordered:
            samples = keys.setdefault((record["benchmark"], record["task"]), {})
            samples.setdefault(sample_key(record), len(samples))
        scores: dict[Line, dict[Task, list[float | None]]] = {}
        for record in ordered:
            task = record["benchmark"], record["task"]
            line = record["kv_budget"], variant_of(record)
            row = scores.setdefault(line, {}).setdefault(task, [None] * len(keys[task]))
            row[keys[task][sample_key(record)]] = record["score"]
        return cls({task: tuple(f"{seed}/{name}" for seed, name in samples) for task, samples in keys.items()}, scores)

    def lines(self, method: str) -> list[Line]:
        """Lines of a method, by budget."""
        found = [line for line in self.scores if line[1].method == method]
        return sorted(found, key=lambda line: (budget_order(line[0]), line[1]))

    def full(self, like: Variant) -> Line | None:
        """The full cache's line under the protocol of `like`."""
        wanted = replace(like, method=FULL, preset="normalized")
        exact = [line for line in self.lines(FULL) if line[1] == wanted]
        return exact[0] if exact else None

    def paired(
        self, first: Sequence[Line], second: Sequence[Line], tasks: Iterable[Task]
    ) -> dict[Task, tuple[Floats, Floats]]:
        """Per task both sides' scores [samples], each the mean over its lines, on samples that all lines scored."""
        out = {}
        for task in tasks:
            rows = [self.scores[line].get(task, [None] * len(self.samples[task])) for line in (*first, *second)]
            whole = [column for column in zip(*rows, strict=True) if None not in column]
            if whole:
                table = np.array(whole, dtype=np.float64)
                out[task] = table[:, : len(first)].mean(axis=1), table[:, len(first) :].mean(axis=1)
        return out


def write_scores(scores: SampleScores, records_digest: str, folder: Path) -> Path:
    """scores.json in `folder`: one line of text per line of the tables."""
    order = sorted(scores.samples)
    head = {
        "kind": KIND,
        "records_digest": records_digest,
        "tasks": [[*task, list(scores.samples[task])] for task in order],
    }
    lines = []
    for (budget, variant), by_task in sorted(
        scores.scores.items(), key=lambda item: (budget_order(item[0][0]), item[0][1])
    ):
        rows = [[None if s is None else round(s, 4) for s in by_task[t]] if t in by_task else None for t in order]
        lines.append(json.dumps({"kv_budget": budget, **variant.fields(), "scores": rows}, separators=(",", ":")))
    text = json.dumps(head, separators=(",", ":"))[:-1] + ',"lines":[\n' + ",\n".join(lines) + "\n]}\n"
    (folder / FILE).write_text(text, encoding="utf-8")
    return folder / FILE


def read_scores(value: Mapping[str, Any], source: str, records_digest: str) -> SampleScores:
    """Of a parsed scores.json; refuses one that is not of the metrics beside it, or not whole."""
    if (
        value.get("kind") != KIND
        or not isinstance(value.get("tasks"), list)
        or not isinstance(value.get("lines"), list)
    ):
        raise ReportError(f"{source}: expected kind {KIND!r} with lists of tasks and lines; write it again with --out")
    if value.get("records_digest") != records_digest:
        raise ReportError(
            f"{source}: is of records {value.get('records_digest')!r}, the metrics.json beside it of "
            f"{records_digest!r}; write both from one run"
        )
    try:
        samples = {(str(b), str(t)): tuple(map(str, names)) for b, t, names in value["tasks"]}
        scores: dict[Line, dict[Task, list[float | None]]] = {}
        for row in value["lines"]:
            pairs = zip(samples, row["scores"], strict=True)
            by_task = {task: list(values) for task, values in pairs if values is not None}
            if not is_budget(row["kv_budget"]) or not all(_fits(by_task[t], samples[t]) for t in by_task):
                raise ValueError(f"scores of {row['method']!r} at {row['kv_budget']!r} do not fit the samples")
            scores[row["kv_budget"], variant_of(row)] = by_task
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{source}: not whole ({error!r:.120}); write it again with --out") from None
    return SampleScores(samples, scores)


def _fits(scores: Sequence[Any], samples: Sequence[str]) -> bool:
    return len(scores) == len(samples) and all(s is None or (is_number(s) and 0 <= s <= 100) for s in scores)
