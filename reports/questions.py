"""Records by question: seeds that ask the same question again are no independent samples.

Records of one cell with the same sample_id are one question, whatever their seed; its score is their mean. (RULER's
sample_id holds the seed that made the question, so there every seed asks its own.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from reports.intervals import Floats
from reports.records import Record, sample_key


def by_question(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of one cell by sample_id, in the order of the records."""
    questions: dict[str, list[Record]] = {}
    for record in records:
        questions.setdefault(record["sample_id"], []).append(record)
    return questions


def question_scores(questions: Mapping[str, Sequence[Record]]) -> Floats:
    """Mean score of every question that has one, over the seeds that do [questions]."""
    scored = [[r["score"] for r in records if r["score"] is not None] for records in questions.values()]
    return np.array([sum(scores) / len(scores) for scores in scored if scores], dtype=np.float64)


def question_gaps(members: Sequence[Record], base: Sequence[Record]) -> Floats:
    """score - baseline score of every question that both answered under the same seed, averaged over its seeds."""
    base_scores = {sample_key(r): r["score"] for r in base if r["score"] is not None}
    gaps: dict[str, list[float]] = {}
    for record in members:
        if record["score"] is not None and sample_key(record) in base_scores:
            gaps.setdefault(record["sample_id"], []).append(record["score"] - base_scores[sample_key(record)])
    return np.array([sum(values) / len(values) for values in gaps.values()], dtype=np.float64)


def seeds_per_question(questions: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    """{"seeds_per_question": mean number}, where it is above 1."""
    records = sum(map(len, questions.values()))
    return {"seeds_per_question": round(records / len(questions), 4)} if records > len(questions) else {}
