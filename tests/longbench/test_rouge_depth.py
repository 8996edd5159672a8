"""The official ROUGE gives up on long texts, at Python's recursion limit, with a 0. At which length is part of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from longbench.metrics import rouge_score, rouge_zh_score

SCRIPT = """
from rouge import Rouge

def rouge_score(prediction, ground_truth, **kwargs):
    rouge = Rouge()
    try:
        scores = rouge.get_scores([prediction], [ground_truth], avg=True)
    except:
        return 0.0
    return scores["rouge-l"]["f"]

def rouge_zh_score(prediction, ground_truth, **kwargs):
    return rouge_score(" ".join(prediction.split()), " ".join(ground_truth.split()))

def scorer(words):
    return {metric}("z " + " ".join(f"w{{i}}" for i in range(words)), "z", all_classes=None)

for words in range(960, 1010):  # at the top level, no frame deeper
    if scorer(words) > 0:
        last = words
print(last)
"""


def text(words: int) -> str:
    return "z " + " ".join(f"w{i}" for i in range(words))


def longest_pair(metric: Callable[[str, str], float] = rouge_score) -> int:
    """How many unmatched words a prediction may hold before the recursion limit turns its score into 0."""
    return max(words for words in range(960, 1010) if metric(text(words), "z") > 0)


def from_depth(depth: int, function: Callable[[], int]) -> int:
    return function() if depth == 0 else from_depth(depth - 1, function)


@pytest.mark.parametrize("metric", [rouge_score, rouge_zh_score], ids=lambda metric: metric.__name__)
def test_rouge_gives_up_exactly_where_the_official_script_does(metric: Callable[[str, str], float]) -> None:
    code = SCRIPT.format(metric=metric.__name__)
    script = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert longest_pair(metric) == int(script.stdout)


def test_the_chinese_score_gives_up_one_word_earlier() -> None:
    """Its official caller is one frame deeper."""
    assert longest_pair(rouge_zh_score) == longest_pair(rouge_score) - 1


def test_rouge_does_not_depend_on_the_callers_depth_or_a_raised_limit() -> None:
    before = sys.getrecursionlimit()
    expected = longest_pair()
    try:
        sys.setrecursionlimit(before + 3000)
        assert longest_pair() == expected
        assert from_depth(before + 1000, longest_pair) == expected
    finally:
        sys.setrecursionlimit(before)


def test_a_limit_too_low_for_the_official_depth_is_an_error_not_a_zero() -> None:
    code = (
        "import sys; from longbench.metrics import rouge_score; from longbench.errors import LongBenchError\n"
        "sys.setrecursionlimit(300)\n"
        "try: rouge_score('z ' + 'w ' * 500, 'z')\n"
        "except LongBenchError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sys.setrecursionlimit(1000)" in done.stdout
