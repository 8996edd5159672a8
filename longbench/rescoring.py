"""Predictions of any tool to official scores. No model is needed, and none is loaded.

`read_predictions` reads the formats named in `predictions.py`; `score_predictions` judges them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from longbench.errors import LongBenchError
from longbench.metrics import bucket_scores, dataset_score, sample_score, second_score
from longbench.predictions import Prediction, read_predictions
from longbench.tasks import TASKS, base_name

__all__ = ["DatasetScore", "Prediction", "read_predictions", "score_predictions"]


@dataclass(frozen=True)
class DatasetScore:
    """Official numbers of one data set, in percent.

    score: `scorer`. by_length: `scorer_e`, None when a length is unknown. samples: per sample, [0, 100].
    second: unrounded mean of the second column, for summaries only.
    """

    dataset: str
    count: int
    score: float
    by_length: dict[str, float] | None
    samples: tuple[float, ...]
    second: float | None


def score_predictions(predictions: Iterable[Prediction], *, second: bool = False) -> dict[str, DatasetScore]:
    """Data set -> score. As in the official script, the classes of the last sample serve the whole data set."""
    groups: dict[str, list[Prediction]] = {}
    for item in predictions:
        if base_name(item.task) not in TASKS:
            raise LongBenchError(f"got predictions of {item.task!r}, expected data sets among {', '.join(TASKS)}")
        groups.setdefault(item.task, []).append(item)
    return {task: _score(task, items, second) for task, items in groups.items()}


def _score(task: str, items: Sequence[Prediction], second: bool) -> DatasetScore:
    name = base_name(task)
    texts, answers = [item.prediction for item in items], [item.references for item in items]
    classes = items[-1].all_classes
    if classes is None and TASKS[name].metric == "classification_score":
        raise LongBenchError(f"{task}: the predictions name no classes, expected all_classes of {name}")
    try:
        samples = [sample_score(name, text, truths, classes) for text, truths in zip(texts, answers, strict=True)]
    except IndexError as error:
        raise LongBenchError(f"{task}: {error}; expected the official gold answers") from None
    known = [item.length for item in items if item.length is not None]
    extra = [second_score(name, text, truths) for text, truths in zip(texts, answers, strict=True)] if second else []
    numbers = [value for value in extra if value is not None]
    return DatasetScore(
        dataset=task,
        count=len(items),
        score=dataset_score(samples),
        by_length=bucket_scores(samples, known) if len(known) == len(items) else None,
        samples=tuple(100 * value for value in samples),
        second=100 * sum(numbers) / len(numbers) if numbers else None,
    )
