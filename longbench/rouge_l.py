"""ROUGE-L the way LongBench measures it, and the way most papers mean it.

Official column: the `rouge` package, 1.0.1, through `Rouge().get_scores(..., avg=True)["rouge-l"]["f"]`. It works on
*sets* of words, splits sentences at every full stop and, in LongBench, turns every exception into 0.0.
Second column: Google's `rouge-score` package, ROUGE-L F1 on sequences. The two differ by 0.15 on average.

The `rouge` package walks its table by recursion, so a long enough pair dies of Python's recursion limit and scores
0.0. Whether it does depends on how deep the caller already is. Here the call always runs at the depth it has in the
official script (`python eval.py` -> `scorer` -> `rouge_score`, limit 1000): in a fresh thread, which starts at depth
zero, padded by as many frames as the process's limit exceeds 1000.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import Any

from longbench.errors import LongBenchError
from longbench.normalize import chinese_words

OFFICIAL_LIMIT = 1000
"""Python's default recursion limit, which the official script runs under."""


def rouge_l(prediction: str, ground_truth: str, extra_frames: int = 0) -> float:
    """F of rouge-l by the `rouge` package, 0.0 for whatever it raises. In [0, 1).

    extra_frames: how much deeper than `rouge_score` the official caller is; 1 for `rouge_zh_score`, which calls it.
    """
    import rouge  # here: the fresh thread has no frames to spend on importing

    outcome: list[float] = []
    finished = _thread.allocate_lock()
    finished.acquire()
    _thread.start_new_thread(_run, (rouge.Rouge, prediction, ground_truth, extra_frames, outcome, finished))
    finished.acquire()
    if not outcome:
        raise LongBenchError(
            f"a ROUGE pair needs more frames than the recursion limit {sys.getrecursionlimit()} leaves, expected the "
            f"default {OFFICIAL_LIMIT}: call sys.setrecursionlimit({OFFICIAL_LIMIT}) before scoring"
        )
    return outcome[0]


def _run(
    make: Callable[[], Any], prediction: str, ground_truth: str, extra_frames: int, outcome: list[float], finished: Any
) -> None:
    """Depth 1 of the fresh thread. Leaves one number in `outcome`, or none when the limit is below the official one."""
    surplus = sys.getrecursionlimit() - OFFICIAL_LIMIT
    try:
        outcome.append(_descend(surplus + extra_frames, make, prediction, ground_truth))
    except RecursionError:
        if surplus >= 0:
            outcome.append(0.0)
    except Exception:  # the official code swallows all of them
        outcome.append(0.0)
    finally:
        finished.release()


def _descend(frames: int, make: Callable[[], Any], prediction: str, ground_truth: str) -> float:
    """Burn `frames` frames, then score from the depth of the official `rouge_score`."""
    if frames > 0:
        return _descend(frames - 1, make, prediction, ground_truth)
    return _official_call(make, prediction, ground_truth)


def _official_call(make: Callable[[], Any], prediction: str, ground_truth: str) -> float:
    scores: dict[str, dict[str, float]] = make().get_scores([prediction], [ground_truth], avg=True)
    return scores["rouge-l"]["f"]


class _Words:
    """A tokenizer for `rouge-score` that keeps Chinese, which its own tokenizer drops."""

    def tokenize(self, text: str) -> list[str]:
        return [word for word in chinese_words(text) if word.strip()]


def rouge_l_google(prediction: str, ground_truth: str, language: str = "en") -> float:
    """F1 of ROUGE-L by `rouge-score` without stemming; `language="zh"` segments with jieba. In [0, 1]."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Words() if language == "zh" else None)
    return float(scorer.score(ground_truth, prediction)["rougeL"].fmeasure)
