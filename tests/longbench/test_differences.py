"""Where popular re-implementations leave the official metric, each shown on an example of ours.

The variants below restate the one changed step of the released code that is named; everything else is the official
metric. They are not used by the project.
"""

from __future__ import annotations

from difflib import SequenceMatcher

from longbench.metrics import code_sim_score, rouge_score, sample_score, second_score
from longbench.v2 import accuracy


def test_rouge_score_package_gives_other_summaries_scores() -> None:
    """Repositories that swap the `rouge` package for `rouge-score`."""
    summary, gold = "The green lantern, it said, is on the shelf.", "the green lantern is on the shelf"
    google = second_score("gov_report", summary, [gold])
    assert google is not None and abs(google - rouge_score(summary, gold)) > 0.1


def test_lm_eval_skips_blank_lines_in_code() -> None:
    """lm-evaluation-harness longbench/metrics.py: blank lines are skipped, where the official code takes them."""
    prediction, gold = "   \nreturn total", "return total"
    skipped = next(line for line in prediction.split("\n") if line.strip())
    assert SequenceMatcher(None, skipped, gold).ratio() == 1.0
    assert code_sim_score(prediction, gold) < 0.5


def test_lm_eval_does_not_take_the_first_line_of_few_shot_answers() -> None:
    """lm-evaluation-harness longbench/metrics.py: strips the whole answer and judges all of it."""
    prediction = "Paris\nQuestion: Which river?\nAnswer: Seine"
    assert sample_score("triviaqa", prediction, ["Paris"]) == 1.0
    assert sample_score("hotpotqa", prediction.strip(), ["Paris"]) < 0.5, "the same metric without the first-line rule"


def test_kvpress_strips_all_leading_white_space_before_the_first_line() -> None:
    """kvpress longbench/calculate_metrics.py: `lstrip()` where the official code strips newlines only."""
    prediction = " \nParis"
    assert sample_score("triviaqa", prediction, ["Paris"]) == 0.0
    assert sample_score("triviaqa", prediction.lstrip(), ["Paris"]) == 1.0


def test_percentages_of_rounded_samples_are_not_the_official_percentage() -> None:
    """Harnesses that round each sample before they average."""
    scores = [sample_score("qasper", "a lamp green", ["green"]), *[0.0] * 2]
    assert round(100 * sum(scores) / 3, 2) != round(sum(round(100 * score) for score in scores) / 3, 2)


def test_guessing_compensation_raises_v2() -> None:
    """LongBench v2's own switch: an unreadable answer counts a quarter."""
    rows = [{"pred": None, "judge": False, "difficulty": "easy", "length": "short"}] * 4
    assert accuracy(rows)["overall"] == 0.0 and accuracy(rows, compensated=True)["overall"] == 25.0
    assert "hard" not in accuracy(rows)
