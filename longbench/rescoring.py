"""Predictions of any tool to official scores. No model is needed, and none is loaded.

`read_predictions` reads the formats named in `predictions.py`; `score_predictions` judges them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from longbench.errors import LongBenchError
from longbench.metrics import length_bucket, second_score
from longbench.official import by_length, judge_sample, official_scores
from longbench.predictions import Prediction, read_predictions
from longbench.tasks import TASKS, V2, base_name, get_task

__all__ = ["DatasetScore", "Prediction", "read_predictions", "score_predictions"]


@dataclass(frozen=True)
class DatasetScore:
    """Official numbers of one data set, in percent.

    score: `scorer`; for version 2, overall accuracy. groups: `scorer_e`'s buckets where every length is known, or
    version 2's columns; empty: why one of them has no number. samples: per sample, [0, 100]. second: unrounded mean of
    the second column, for summaries only.
    """

    dataset: str
    count: int
    score: float
    samples: tuple[float, ...]
    groups: dict[str, float] = field(default_factory=dict)
    empty: dict[str, str] = field(default_factory=dict)
    second: float | None = None

    def to_record(self) -> dict[str, Any]:
        """The numbers that exist, for JSON."""
        optional = {"groups": self.groups, "empty": self.empty, "rouge_score_package": self.second}
        return {"score": self.score, "count": self.count} | {
            name: value for name, value in optional.items() if value not in ({}, None)
        }


def score_predictions(predictions: Iterable[Prediction], *, second: bool = False) -> dict[str, DatasetScore]:
    """Data set -> score. As in the official script, the classes of the last sample serve the whole data set."""
    groups: dict[str, list[Prediction]] = {}
    for item in predictions:
        if base_name(item.task) not in TASKS and item.task != V2.name:
            expected = ", ".join((*TASKS, V2.name))
            raise LongBenchError(f"got predictions of {item.task!r}, expected data sets among {expected}")
        groups.setdefault(item.task, []).append(item)
    return {task: _score(task, items, second) for task, items in groups.items()}


def _score(task: str, items: Sequence[Prediction], second: bool) -> DatasetScore:
    classes = items[-1].all_classes
    if classes is None and get_task(task).metric == "classification_score":
        raise LongBenchError(f"{task}: the predictions name no classes, expected all_classes of {base_name(task)}")
    try:
        values = [judge_sample(task, item.prediction, item.references, classes) for item in items]
    except IndexError as error:
        raise LongBenchError(f"{task}: {error}; expected the official gold answers") from None
    numbers = _official(task, items, values)
    return DatasetScore(
        dataset=task,
        count=len(items),
        score=numbers["score"],
        samples=tuple(100 * value for value in values),
        groups=numbers.get("groups", {}),
        empty=numbers.get("empty", {}),
        second=_second(task, items) if second else None,
    )


def _official(task: str, items: Sequence[Prediction], values: Sequence[float]) -> dict[str, Any]:
    """The score, and the groups the file's facts allow: the official -E files carry the plain data set's name."""
    if task == V2.name:
        if any(set(item.groups) != {"difficulty", "length"} for item in items):
            raise LongBenchError(f"{task}: a sample has no difficulty and length, expected version 2's own fields")
        return official_scores(task, values, [item.groups for item in items])
    numbers = official_scores(base_name(task), values, [{}] * len(items))
    lengths = [item.length for item in items if item.length is not None]
    return numbers | (by_length(values, list(map(length_bucket, lengths))) if len(lengths) == len(items) else {})


def _second(task: str, items: Sequence[Prediction]) -> float | None:
    if task == V2.name:
        return None
    scores = [second_score(base_name(task), item.prediction, item.references) for item in items]
    numbers = [value for value in scores if value is not None]
    return 100 * sum(numbers) / len(numbers) if numbers else None
