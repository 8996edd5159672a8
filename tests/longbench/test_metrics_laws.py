"""What must hold of the metrics for any text, any caller and any installed package."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longbench import metrics, v2
from longbench.errors import LongBenchError
from longbench.metrics import rouge_score, sample_score, scorer, scorer_e, second_score
from longbench.tasks import TASKS

PIECES = ["the", "a", "Paris", "paris.", "7", "段落7", "Paragraph 7", "北京", "大学", "#", "//", "\n"]
WORDS = st.lists(st.sampled_from(PIECES))
TEXT = st.one_of(st.text(max_size=60), WORDS.map(" ".join), WORDS.map("".join))
CLASSES = st.lists(st.text(max_size=6), min_size=1, max_size=5)


@pytest.mark.parametrize("name", ["qa_f1_score", "qa_f1_zh_score", "code_sim_score", "count_score", "rouge_score"])
@settings(max_examples=60, deadline=None)
@given(prediction=TEXT, truth=TEXT)
def test_any_text_scores_between_zero_and_one(name: str, prediction: str, truth: str) -> None:
    assert 0.0 <= getattr(metrics, name)(prediction, truth) <= 1.0


@settings(max_examples=40, deadline=None)
@given(prediction=TEXT, truth=TEXT)
def test_any_chinese_summary_scores_between_zero_and_one(prediction: str, truth: str) -> None:
    assert 0.0 <= metrics.rouge_zh_score(prediction, truth) <= 1.0


@settings(deadline=None)
@given(prediction=TEXT, truth=st.text(max_size=8), classes=CLASSES)
def test_any_classification_scores_between_zero_and_one(prediction: str, truth: str, classes: list[str]) -> None:
    assert 0.0 <= metrics.classification_score(prediction, truth, all_classes=classes) <= 1.0


@settings(deadline=None)
@given(prediction=TEXT, number=st.integers(0, 99), around=st.text(max_size=5))
def test_any_retrieval_scores_between_zero_and_one(prediction: str, number: int, around: str) -> None:
    assert 0.0 <= metrics.retrieval_score(prediction, f"{around}Paragraph {number}") <= 1.0
    assert 0.0 <= metrics.retrieval_zh_score(prediction, f"{around}段落{number}") <= 1.0


@settings(deadline=None)
@given(TEXT)
def test_any_response_gives_a_letter_or_nothing(response: str) -> None:
    assert v2.extract_answer(response) in {None, "A", "B", "C", "D"}


@settings(max_examples=30, deadline=None)
@given(prediction=TEXT, truths=st.lists(TEXT, min_size=1, max_size=3))
def test_the_second_column_scores_between_zero_and_one(prediction: str, truths: list[str]) -> None:
    for dataset in ("gov_report", "vcsum", "samsum"):
        score = second_score(dataset, prediction, truths)
        assert score is not None and 0.0 <= score <= 1.0
    assert second_score("qasper", prediction, truths) is None


@pytest.mark.parametrize("dataset", sorted(TASKS))
def test_a_gold_answer_beats_an_unrelated_one(dataset: str) -> None:
    classes = ["Planet", "River"]
    truths = {"passage_count": ["7"], "passage_retrieval_en": ["Paragraph 7"], "passage_retrieval_zh": ["段落7"]}
    gold = truths.get(dataset, ["River"] if dataset in ("trec", "lsht") else ["北京 lantern shelf"])
    assert sample_score(dataset, gold[0], gold, classes) > 0.99
    assert sample_score(dataset, "9 xq", gold, classes) < 0.5


def test_the_best_gold_answer_counts_and_none_counts_nothing() -> None:
    assert sample_score("qasper", "green", ["red", "green"]) == 1.0
    assert sample_score("qasper", "green", []) == 0.0


def test_only_the_first_line_of_a_few_shot_answer_is_judged() -> None:
    assert sample_score("triviaqa", "\n\nParis\nRome", ["Paris"]) == 1.0
    assert sample_score("triviaqa", " \nParis", ["Paris"]) == 0.0, "leading newlines are stripped, spaces are not"
    assert sample_score("hotpotqa", "Paris\nRome", ["Paris"]) < 1.0


def test_striking_off_classes_skips_the_one_after_each_struck_class() -> None:
    # "b" and "bb" are both parts of the gold "bbb": the walk strikes "b", and thereby passes over "bb".
    assert metrics.classification_score("b bb bbb", "bbb", all_classes=["b", "bb", "bbb"]) == 0.5


def test_errors_of_bad_gold_answers_name_them() -> None:
    with pytest.raises(IndexError, match="no number"):
        metrics.retrieval_score("7", "no number")
    with pytest.raises(KeyError):
        metrics.classification_score("x", "y")
    with pytest.raises(ZeroDivisionError):
        scorer("qasper", [], [], None)


def test_length_buckets_and_empty_ones() -> None:
    scores = scorer_e("qasper", ["a b"] * 3, [["b"]] * 3, [3999, 4000, 7999], None)
    assert scores["0-4k"] == 100.0 and scores["4-8k"] == 100.0 and math.isnan(scores["8k+"])


# --- what is installed -----------------------------------------------------------------------------------------------


def test_a_levenshtein_package_changes_no_score(tmp_path) -> None:
    """A package of that name that is found first and answers nonsense is never asked."""
    package = tmp_path / "Levenshtein"
    package.mkdir()
    (package / "__init__.py").write_text("def ratio(*_): return 0.123\n")
    (package / "StringMatcher.py").write_text("class StringMatcher:\n    ratio = lambda *_: 0.123\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import Levenshtein.StringMatcher\n"
        "from longbench.metrics import code_sim_score\n"
        "print([code_sim_score(*p) for p in [('def f(a, b):', 'def g(b):'), ('kitten', 'sitting'), ('x', 'x')]])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0.76, 0.62, 1.0]"


def test_fuzzywuzzy_on_its_difflib_back_end_agrees(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "Levenshtein", None)
    fuzz = pytest.importorskip("fuzzywuzzy.fuzz", reason="fuzzywuzzy, the oracle, is not installed")
    monkeypatch.setattr(fuzz, "SequenceMatcher", __import__("difflib").SequenceMatcher)
    for left, right in [("a b", "b a"), ("", "x"), ("same", "same"), ("αβγ", "αβ"), ("ab" * 300, "ba" * 300)]:
        assert metrics.code_sim_score(left, right) == fuzz.ratio(left, right) / 100


def test_a_users_jieba_dictionary_changes_no_score() -> None:
    code = (
        "import jieba; jieba.setLogLevel(60)\n"
        "from longbench.metrics import qa_f1_zh_score\n"
        "before = qa_f1_zh_score('红灯笼挂在门口', '门口的红灯笼')\n"
        "jieba.add_word('红灯笼挂在门口', 10**9)\n"
        "print(before == qa_f1_zh_score('红灯笼挂在门口', '门口的红灯笼'), before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True") and float(done.stdout.split()[1]) > 0


def test_importing_both_benchmarks_is_light() -> None:
    """Counted in processor time and as the best of three: a busy machine must not fail it."""
    code = (
        "import sys, time; start = time.process_time(); import longbench, longbench.metrics, ruler\n"
        "seconds = time.process_time() - start\n"
        "import longbench.rescoring, longbench.presets, longbench.sources, longbench.split\n"
        "heavy = {'torch', 'transformers', 'jieba', 'rouge', 'rouge_score', 'nltk', 'huggingface_hub', 'cokv'}\n"
        "print(seconds, sorted(heavy & set(sys.modules)))"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        spent, loaded = done.stdout.split(maxsplit=1)
        assert loaded.strip() == "[]"
        seconds.append(float(spent))
    assert min(seconds) < 0.5


def test_what_a_rouge_pair_raises_is_zero_as_officially() -> None:
    assert rouge_score("", "a") == 0.0
    assert rouge_score("...", "...") == 0.0
    assert LongBenchError.__mro__[1] is ValueError
