"""Inputs that no data set holds: the metrics give what the official steps give, the type of the error included.

The other side of each comparison is written anew from the description of the official step, or is the package that the
official code calls.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from difflib import SequenceMatcher
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longbench import metrics, v2

TEXTS = [
    "",
    " ",
    "\n\n",
    "...",
    "!?;",
    "，。！",
    "the",
    "a an the",
    "The-A",
    "\ud800",
    "x\udfff y",
    "٣٧ 7",
    "½ ² 7",
    "e\u0301 é",
    "İ ı ß ẞ",
    "a\x1cb\x85c\u2028d\xa0e",
    "a\u200bb",
    "段落7 段落08",
    "Paragraph 7, Paragraph 8",
    "7" * 400,
    "# a\n// b\n`c`",
    "\n\n  x = 1\n",
    "红灯笼挂在门口。",
    "x " * 300,
]
THINGS: list[Any] = [None, 7, 7.0, True, b"7", [], ["7"], [["a"], "b"], ("7",), {"7": 1}, float("nan")]
ANYTHING = [*TEXTS, *THINGS]


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, str | None]:
    """(value, None) or (None, name of the exception's type)."""
    try:
        return function(*args, **kwargs), None
    except Exception as error:
        return None, type(error).__name__


def bag_f1(left: list[str], right: list[str]) -> float:
    rest, shared = list(right), 0
    for item in left:
        if item in rest:
            rest.remove(item)
            shared += 1
    if shared == 0:
        return 0
    precision, recall = 1.0 * shared / len(left), 1.0 * shared / len(right)
    return (2 * precision * recall) / (precision + recall)


def english_words(text: Any) -> list[str]:
    bare = "".join(text.lower().translate(str.maketrans("", "", string.punctuation)))
    return [word for word in re.sub(r"\b(a|an|the)\b", " ", bare).split() if word]


def share(pattern: str | None, prediction: Any, truth: Any) -> float:
    wanted = str(truth) if pattern is None else re.findall(pattern, truth)[0]
    numbers = re.findall(r"\d+", prediction)
    return float(0.0 if not numbers else len([n for n in numbers if n == wanted]) / len(numbers))


def struck(prediction: Any, truth: Any, classes: Any) -> float:
    named = []
    for name in classes:
        if name in prediction:
            named.append(name)
    for name in named:  # the list shrinks while it is walked: this is the official quirk
        if name in truth and name != truth:
            named.remove(name)
    return 1.0 / len(named) if truth in named else 0.0


def code_similarity(fuzz: Any, prediction: Any, truth: Any) -> float:
    chosen = ""
    for line in prediction.lstrip("\n").split("\n"):
        if "`" not in line and "#" not in line and "//" not in line:
            chosen = line
            break
    return fuzz.ratio(chosen, truth) / 100


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Any:
    """fuzzywuzzy itself, on difflib."""
    module = pytest.importorskip("fuzzywuzzy.fuzz", reason="fuzzywuzzy, the oracle, is not installed here")
    monkeypatch.setattr(module, "SequenceMatcher", SequenceMatcher)
    return module


def test_english_f1() -> None:
    for left, right in product(ANYTHING, repeat=2):
        expected = outcome(lambda a, b: bag_f1(english_words(a), english_words(b)), left, right)
        if isinstance(left, bytes) or isinstance(right, bytes):
            expected = (None, expected[1] or "TypeError")
            assert outcome(metrics.qa_f1_score, left, right)[0] is None
            continue
        score = outcome(metrics.qa_f1_score, left, right)
        assert score == expected and type(score[0]) is type(expected[0]), (left, right)


def test_counts_and_paragraph_numbers() -> None:
    for left, right in product(ANYTHING, repeat=2):
        assert outcome(metrics.count_score, left, right) == outcome(share, None, left, right), (left, right)
        for function, pattern in (
            (metrics.retrieval_score, r"Paragraph (\d+)"),
            (metrics.retrieval_zh_score, r"段落(\d+)"),
        ):
            assert outcome(function, left, right) == outcome(share, pattern, left, right), (left, right)


def test_code_similarity(fuzz: Any) -> None:
    for left, right in product(ANYTHING, repeat=2):
        score, expected = outcome(metrics.code_sim_score, left, right), outcome(code_similarity, fuzz, left, right)
        assert score == expected, (left, right)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab#/`\n ", max_size=30), st.text(alphabet="ab#/`\n ", max_size=30))
def test_code_similarity_of_any_lines(prediction: str, truth: str) -> None:
    fuzz = pytest.importorskip("fuzzywuzzy.fuzz", reason="fuzzywuzzy, the oracle, is not installed here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, "SequenceMatcher", SequenceMatcher)
        assert metrics.code_sim_score(prediction, truth) == code_similarity(fuzz, prediction, truth)


CLASSES = [
    [],
    ["a"],
    ["a", "ab", "abc", "b"],
    ["", "a"],
    ["a", "a", "ab"],
    [None],
    [7],
    "ab",
    None,
    ["Planet", "planet"],
]


def test_classification() -> None:
    predictions = ["", "a", "abc ab b", "Planet", None, 7, ["a", "ab"], b"a"]
    truths = ["a", "ab", "abc", "", "Planet", None, 7, ["a"], ["a", "ab"]]
    for prediction, truth, classes in product(predictions, truths, CLASSES):
        score = outcome(metrics.classification_score, prediction, truth, all_classes=classes)
        assert score == outcome(struck, prediction, truth, classes), (prediction, truth, classes)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abc ", max_size=12), st.text(alphabet="abc", max_size=4), st.lists(st.text("abc", max_size=4)))
def test_classification_of_nested_names(prediction: str, truth: str, classes: list[str]) -> None:
    assert metrics.classification_score(prediction, truth, all_classes=classes) == struck(prediction, truth, classes)


def test_rouge_swallows_everything_the_package_raises() -> None:
    from rouge import Rouge

    def package(left: Any, right: Any) -> float:
        try:
            return Rouge().get_scores([left], [right], avg=True)["rouge-l"]["f"]
        except Exception:
            return 0.0

    for left, right in product(ANYTHING, repeat=2):
        assert metrics.rouge_score(left, right) == package(left, right), (left, right)


def test_chinese_metrics_raise_what_jieba_raises_before_anything_is_swallowed() -> None:
    for value in (None, 7, ["a"], {}):
        assert outcome(metrics.rouge_zh_score, value, "a")[1] == "AttributeError"
        assert outcome(metrics.qa_f1_zh_score, "a", value)[1] == "AttributeError"
    assert metrics.qa_f1_zh_score("红灯笼".encode(), "红灯笼") == 1.0, "jieba decodes bytes"


def test_errors_come_in_the_order_of_the_samples() -> None:
    """A bad length of an earlier sample comes before a bad gold answer of a later one."""
    args = ["1", "1"], [["Paragraph 1"], ["no number"]], ["10", 20]
    assert outcome(metrics.scorer_e, "passage_retrieval_en", *args, None)[1] == "TypeError"
    assert outcome(metrics.scorer, "passage_retrieval_en", *args[:2], None)[1] == "IndexError"
    assert outcome(metrics.scorer, "unknown", ["a"], [["a"]], None)[1] == "KeyError"
    assert outcome(metrics.scorer, "unknown", ["a"], [[]], None) == (0.0, None), "never looked up without a gold answer"


def test_v2_reads_letters_and_groups_as_released() -> None:
    assert outcome(v2.extract_answer, None)[1] == outcome(v2.extract_answer, 7)[1] == "AttributeError"
    assert v2.extract_answer("The correct answer is **(B**)") == "B"
    assert v2.extract_answer("The correct answer is \\(B)") is None
    rows = [
        {"judge": True, "difficulty": "medium", "length": "huge"},
        {"judge": False, "difficulty": "easy", "length": ""},
    ]
    assert v2.accuracy(rows) == {"overall": 50.0, "easy": 0.0, "hard": 100.0, "long": 50.0}
