"""Scores of single samples and of tasks, the official metric either way.

Released code: NVIDIA/RULER, `scripts/eval/evaluate.py` (`run_evaluation_per_task`). It knows tasks only; a record per
sample needs a score per sample, so ours is the official metric of a task with this one sample, unrounded. `task_score`
of those is the official number, to the last digit.
"""

from collections.abc import Sequence
from fractions import Fraction

from ruler.errors import RulerError
from ruler.metrics import match_references, postprocess_pred, string_match_all, string_match_part
from ruler.sample import Metric, Sample

METRICS = {"all": string_match_all, "part": string_match_part}
MOST_REFERENCES = 10_000  # shares of up to this many references stay distinct


def score(judged: Sample | Metric, prediction: str, outputs: Sequence[str] | None = None) -> float:
    """Percent, 0 to 100, of one raw prediction: the share of references matched (`all`), or whether any is (`part`).

    `outputs` are the references; a sample brings its own.
    """
    metric = judged.metric if isinstance(judged, Sample) else judged
    references = judged.outputs if isinstance(judged, Sample) and outputs is None else outputs
    if metric not in METRICS:
        raise RulerError(f"unknown RULER metric {metric!r}; expected all or part")
    if not references or isinstance(references, str):
        raise RulerError(f"references are {references!r}; expected a list of at least one string")
    if len(references) > MOST_REFERENCES:
        raise RulerError(f"{len(references)} references; expected at most {MOST_REFERENCES}")
    hits = match_references(postprocess_pred(prediction), references)
    return 100 * (sum(hits) / len(hits) if metric == "all" else max(hits))


def task_score(scores: Sequence[float]) -> float:
    """The official number of a task, two decimals, from the scores of its samples in their order.

    The official code sums shares, multiplies by 100 and rounds; percentages are turned back into the very shares first,
    so that the last digit agrees.
    """
    if not scores:
        raise RulerError("no scores; expected at least one sample")
    shares = [float(Fraction(percent / 100).limit_denominator(MOST_REFERENCES)) for percent in scores]
    return round(sum(shares) / len(shares) * 100, 2)
