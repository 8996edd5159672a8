"""Every sample's score, by task and by line (budget and variant), so that two lines can be compared sample by sample.

Does not know: what a score or a line is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reports.intervals import Floats
from reports.kv_budget import Budget, budget_order
from reports.records import FULL, Record, Variant, sample_key, sorted_records, variant_of

Task = tuple[str, str]  # benchmark, task
Line = tuple[Budget, Variant]


@dataclass(frozen=True)
class SampleScores:
    """scores[line][task][place] of the sample whose question is `questions[task][place]`; None where it has none."""

    questions: Mapping[Task, Sequence[str]]  # sample_id; one asked under several seeds occurs several times
    scores: Mapping[Line, Mapping[Task, Sequence[float | None]]]
    shares: Mapping[Line, float]  # mean share of the prompt's tokens that the budget is, over samples that state it

    @classmethod
    def of_records(cls, records: Iterable[Record]) -> SampleScores:
        ordered = sorted_records(records)
        places: dict[Task, dict[tuple[int, str], int]] = {}
        for record in ordered:
            known = places.setdefault((record["benchmark"], record["task"]), {})
            known.setdefault(sample_key(record), len(known))
        scores: dict[Line, dict[Task, list[float | None]]] = {}
        lengths: dict[Line, list[tuple[float, float]]] = {}
        for record in ordered:
            task, line = (record["benchmark"], record["task"]), (record["kv_budget"], variant_of(record))
            row = scores.setdefault(line, {}).setdefault(task, [None] * len(places[task]))
            row[places[task][sample_key(record)]] = record["score"]
            slots = record["kv_budget"] if isinstance(record["kv_budget"], int) else record.get("kv_slots")
            tokens = record.get("prompt_tokens")
            if slots is not None and tokens:
                lengths.setdefault(line, []).append((min(slots, tokens), tokens))
        shares = {line: sum(s for s, _ in pairs) / sum(t for _, t in pairs) for line, pairs in lengths.items()}
        return cls({task: [name for _, name in samples] for task, samples in places.items()}, scores, shares)

    def lines(self, method: str) -> list[Line]:
        """Lines of a method, by budget."""
        lines = [line for line in self.scores if line[1].method == method]
        return sorted(lines, key=lambda line: (budget_order(line[0]), line[1]))

    def scored(self, line: Line) -> bool:
        """Whether any sample has a score: a line that is infeasible throughout has none."""
        return any(score is not None for row in self.scores[line].values() for score in row)

    def full(self, line: Line) -> Line | None:
        """The full cache's line under the protocol of `line`, or its only one."""
        wanted = None, replace(line[1], method=FULL, preset="normalized")
        lines = self.lines(FULL)
        return wanted if wanted in self.scores else lines[0] if len(lines) == 1 else None

    def beside(self, line: Line, method: str) -> Line | None:
        """Another method's line at the same budget and under the same protocol: its normalized or only preset."""
        budget, variant = line
        lines = [
            other
            for other in self.lines(method)
            if replace(other[1], method=variant.method, preset=variant.preset) == variant
            and other[0] == budget
            and self.scored(other)
        ]
        chosen = [other for other in lines if other[1].preset == "normalized"] or lines
        return chosen[0] if len(chosen) == 1 else None

    def paired(
        self, first: Sequence[Line], second: Sequence[Line], tasks: Iterable[Task]
    ) -> dict[Task, tuple[Floats, Floats]]:
        """Per task both sides' scores [questions], each the mean over its lines, of samples that all lines scored."""
        out = {}
        for task in tasks:
            rows = [self.scores[line].get(task, [None] * len(self.questions[task])) for line in (*first, *second)]
            by_question: dict[str, list[list[float]]] = {}
            for question, column in zip(self.questions[task], zip(*rows, strict=True), strict=True):
                if None not in column:
                    by_question.setdefault(question, []).append([float(score or 0.0) for score in column])
            if by_question:
                table = np.array([np.mean(asked, axis=0) for asked in by_question.values()])  # [questions, lines]
                out[task] = table[:, : len(first)].mean(axis=1), table[:, len(first) :].mean(axis=1)
        return out
