"""RULER's two metrics and its post-processing, equal to the official scorer to the last digit.

Paper: RULER, arXiv 2404.06654. Released code: NVIDIA/RULER, `scripts/eval/synthetic/constants.py` (metrics) and
`scripts/eval/evaluate.py` (post-processing, null count).

Both metrics are substring tests on lower-cased text: an answer inside a longer word counts. They take post-processed
predictions; nothing here knows which task uses which metric.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_CONTROL = re.compile("[\x00-\x1f]")


def postprocess_pred(predict_str: str, task_config: object = None) -> str:
    """Strip, turn every C0 control character into a newline, strip again.

    `task_config` is accepted and ignored, as in the official signature.
    """
    return _CONTROL.sub("\n", predict_str.strip()).strip()


def match_references(prediction: str, references: Sequence[str]) -> list[float]:
    """1.0 for each reference that occurs in the prediction, both lower-cased. `[num_references]`"""
    return [1.0 if reference.lower() in prediction.lower() else 0.0 for reference in references]


def string_match_all(preds: Sequence[str], refs: Sequence[Sequence[str]]) -> float:
    """Mean share of references matched, in percent, two decimals: niah, vt, cwe, fwe.

    No predictions, or a sample without references, is a ZeroDivisionError, as in the official code.
    """
    shares = [sum(hits) / len(hits) for hits in map(match_references, preds, refs)]
    return round(sum(shares) / len(preds) * 100, 2)


def string_match_part(preds: Sequence[str], refs: Sequence[Sequence[str]]) -> float:
    """Share of samples with at least one reference matched, in percent, two decimals: qa.

    No predictions is a ZeroDivisionError and a sample without references a ValueError, as in the official code.
    """
    best = [max(hits) for hits in map(match_references, preds, refs)]
    return round(sum(best) / len(preds) * 100, 2)


def count_nulls(preds: Sequence[str]) -> str:
    """`empty/all` after post-processing, the second column of the official summary."""
    return f"{sum(len(pred) == 0 for pred in preds)}/{len(preds)}"


def evaluate_task(
    metric: Callable[[Sequence[str], Sequence[Sequence[str]]], float],
    predictions: Sequence[str],
    references: Sequence[Sequence[str | None]],
) -> tuple[float, str]:
    """Post-process raw predictions, then (score in percent, nulls), as the official `run_evaluation_per_task`.

    Its quirk is kept: when the very first reference is None (a task without gold answers) the score is 0.0.
    """
    preds = [postprocess_pred(prediction) for prediction in predictions]
    graded = len(references) > 0 and references[0][0] is not None
    return (metric(preds, references) if graded else 0.0), count_nulls(preds)  # type: ignore[arg-type]
