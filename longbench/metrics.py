"""LongBench v1's metrics under their official names and signatures, equal to the official code to the last digit.

Paper: LongBench, arXiv 2308.14508. Released code: THUDM/LongBench, `metrics.py` and `eval.py`.

Every metric judges one prediction against one gold answer, in [0, 1]; bad input raises what the official code raises.
`scorer` and `scorer_e` judge a data set, in percent with the official rounding.

Differs: `code_sim_score` uses the standard library's difflib, which is what fuzzywuzzy's ratio is unless
python-Levenshtein happens to be installed; the ROUGE recursion quirk is pinned (see `rouge_l.py`); the official
`classification_score`'s fallback to the most similar class is left out, because it can never run there.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

from longbench.normalize import chinese_words, normalize_answer, normalize_zh_answer
from longbench.rouge_l import rouge_l, rouge_l_google

__all__ = [
    "FIRST_LINE_DATASETS",
    "bucket_scores",
    "classification_score",
    "code_sim_score",
    "count_score",
    "dataset2metric",
    "dataset_score",
    "f1_score",
    "length_bucket",
    "normalize_answer",
    "normalize_zh_answer",
    "qa_f1_score",
    "qa_f1_zh_score",
    "retrieval_score",
    "retrieval_zh_score",
    "rouge_score",
    "rouge_zh_score",
    "sample_score",
    "scorer",
    "scorer_e",
    "second_score",
]

FIRST_LINE_DATASETS = ("trec", "triviaqa", "samsum", "lsht")
"""Judged by their first line only."""

_NUMBER = re.compile(r"\d+")


def f1_score(prediction: Sequence[str], ground_truth: Sequence[str], **kwargs: Any) -> float:
    """F1 of two bags of tokens; 0 when they share none, so two empty bags give 0."""
    shared = sum((Counter(prediction) & Counter(ground_truth)).values())
    if shared == 0:
        return 0
    precision, recall = shared / len(prediction), shared / len(ground_truth)
    return (2 * precision * recall) / (precision + recall)


def qa_f1_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """F1 over normalized English words."""
    return f1_score(normalize_answer(prediction).split(), normalize_answer(ground_truth).split())


def qa_f1_zh_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """F1 over jieba words, each normalized after segmentation, empty ones dropped."""

    def words(text: str) -> list[str]:
        return [word for word in map(normalize_zh_answer, chinese_words(text)) if word]

    return f1_score(words(prediction), words(ground_truth))


def rouge_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """F of rouge-l by the `rouge` package; 0.0 when it raises (an empty side, a pair too long for its recursion)."""
    return rouge_l(prediction, ground_truth)


def rouge_zh_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """`rouge_score` over jieba words joined by spaces, one frame deeper, as in the official script."""
    return rouge_l(" ".join(chinese_words(prediction)), " ".join(chinese_words(ground_truth)), extra_frames=1)


def classification_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """1 / (classes named by the prediction) if the gold class is among them, else 0.0. Needs `all_classes`.

    A class contained in the gold class is struck off the list while the list is being walked, as in the official
    code: the class after each struck one is passed over, and survives.
    """
    named = [name for name in kwargs["all_classes"] if name in prediction]
    position = 0
    while position < len(named):
        name = named[position]
        if name in ground_truth and name != ground_truth:
            named.remove(name)
        position += 1
    return 1.0 / len(named) if ground_truth in named else 0.0


def _share_of_numbers(prediction: str, wanted: str) -> float:
    """Which share of the numbers in the prediction is the wanted one; 0.0 without numbers."""
    numbers = _NUMBER.findall(prediction)
    return float(sum(number == wanted for number in numbers) / len(numbers)) if numbers else 0.0


def count_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """Share of the prediction's numbers that equal the gold count."""
    return _share_of_numbers(prediction, str(ground_truth))


def _paragraph_number(pattern: str, ground_truth: str) -> str:
    numbers: list[str] = re.findall(pattern, ground_truth)
    if not numbers:
        raise IndexError(f"got the gold answer {ground_truth!r}, expected one that matches {pattern!r}")
    return numbers[0]


def retrieval_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """Share of the prediction's numbers that equal the paragraph named by the gold answer, `Paragraph N`."""
    return _share_of_numbers(prediction, _paragraph_number(r"Paragraph (\d+)", ground_truth))


def retrieval_zh_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """Share of the prediction's numbers that equal the paragraph named by the Chinese gold answer."""
    return _share_of_numbers(prediction, _paragraph_number(r"段落(\d+)", ground_truth))


def _percent_ratio(left: str, right: Any) -> int:
    """fuzzywuzzy's `fuzz.ratio` on its difflib back end: 100 for equal strings, 0 against nothing.

    What is no string is compared as it would print, as there; a number, which has no length, is a TypeError.
    """
    if right is None:
        return 0
    if left == right:
        return 100
    if len(left) == 0 or len(right) == 0:
        return 0
    return round(100 * SequenceMatcher(None, left, str(right)).ratio())


def code_sim_score(prediction: str, ground_truth: str, **kwargs: Any) -> float:
    """Similarity of the first line that holds no backtick, hash or double slash, leading newlines aside."""
    lines = prediction.lstrip("\n").split("\n")
    code = next((line for line in lines if not ("`" in line or "#" in line or "//" in line)), "")
    return _percent_ratio(code, ground_truth) / 100


dataset2metric: dict[str, Callable[..., float]] = {
    "narrativeqa": qa_f1_score,
    "qasper": qa_f1_score,
    "multifieldqa_en": qa_f1_score,
    "multifieldqa_zh": qa_f1_zh_score,
    "hotpotqa": qa_f1_score,
    "2wikimqa": qa_f1_score,
    "musique": qa_f1_score,
    "dureader": rouge_zh_score,
    "gov_report": rouge_score,
    "qmsum": rouge_score,
    "multi_news": rouge_score,
    "vcsum": rouge_zh_score,
    "trec": classification_score,
    "triviaqa": qa_f1_score,
    "samsum": rouge_score,
    "lsht": classification_score,
    "passage_retrieval_en": retrieval_score,
    "passage_count": count_score,
    "passage_retrieval_zh": retrieval_zh_score,
    "lcc": code_sim_score,
    "repobench-p": code_sim_score,
}


def sample_score(
    dataset: str, prediction: str, ground_truths: Sequence[str], all_classes: Sequence[str] | None = None
) -> float:
    """One prediction against all gold answers: the best of them, in [0, 1]; 0.0 without gold answers."""
    if dataset in FIRST_LINE_DATASETS:
        prediction = prediction.lstrip("\n").split("\n")[0]
    best = 0.0
    for ground_truth in ground_truths:
        best = max(best, dataset2metric[dataset](prediction, ground_truth, all_classes=all_classes))
    return best


def second_score(dataset: str, prediction: str, ground_truths: Sequence[str]) -> float | None:
    """The second column: ROUGE-L by `rouge-score` for the summaries, in [0, 1]; None for every other data set."""
    metric = dataset2metric[dataset]
    if metric not in (rouge_score, rouge_zh_score):
        return None
    if dataset in FIRST_LINE_DATASETS:
        prediction = prediction.lstrip("\n").split("\n")[0]
    language = "zh" if metric is rouge_zh_score else "en"
    return max((rouge_l_google(prediction, truth, language) for truth in ground_truths), default=0.0)


def dataset_score(scores: Sequence[float]) -> float:
    """Sample scores in [0, 1] to the data set's, in percent with two decimals.

    Added up one by one: Python 3.12's `sum` compensates and would differ from the official loop in the last digit.
    """
    total = 0.0
    for score in scores:
        total += score
    return round(100 * total / len(scores), 2)


def bucket_scores(scores: Sequence[float], lengths: Sequence[int]) -> dict[str, float]:
    """Sample scores in [0, 1] to LongBench-E's three, in percent with two decimals; NaN for an empty bucket."""
    return _bucket_means(zip(scores, map(length_bucket, lengths), strict=False))


def _bucket_means(judged: Iterable[tuple[float, str]]) -> dict[str, float]:
    import numpy as np

    buckets: dict[str, list[float]] = {"0-4k": [], "4-8k": [], "8k+": []}
    for score, bucket in judged:
        buckets[bucket].append(score)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of an empty bucket
        return {bucket: float(round(100 * np.mean(values), 2)) for bucket, values in buckets.items()}


def length_bucket(length: int) -> str:
    """LongBench-E's bucket of a sample, by its length in words (characters for Chinese)."""
    return "0-4k" if length < 4000 else "4-8k" if length < 8000 else "8k+"


def scorer(
    dataset: str, predictions: Sequence[str], answers: Sequence[Sequence[str]], all_classes: Sequence[str] | None
) -> float:
    """Score of a data set in percent, two decimals. No predictions is a ZeroDivisionError, as officially."""
    pairs = list(zip(predictions, answers, strict=False))
    scores = [sample_score(dataset, prediction, truths, all_classes) for prediction, truths in pairs]
    scores += [0.0] * (len(predictions) - len(pairs))  # a prediction without answers counts, as officially
    return dataset_score(scores)


def scorer_e(
    dataset: str,
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    lengths: Sequence[int],
    all_classes: Sequence[str] | None,
) -> dict[str, float]:
    """LongBench-E: the score of each length bucket in percent, two decimals; NaN for an empty bucket."""
    triples = zip(predictions, answers, lengths, strict=False)
    return _bucket_means(
        (sample_score(dataset, prediction, truths, all_classes), length_bucket(length))
        for prediction, truths, length in triples
    )
