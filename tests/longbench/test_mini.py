"""The generated stand-ins: official schema and metrics, lengths, seeds, and questions only the context answers."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from longbench.data import check_v1
from longbench.errors import LongBenchError
from longbench.metrics import sample_score
from longbench.mini.generate import BUILDERS, MiniSample, fit, generate, prompt, wording
from longbench.tasks import TASKS


class Characters:
    """The simplest tokenizer: a token a character."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(c) for c in text]


NAMES = sorted(BUILDERS)


def samples(name: str, length: int = 2000, count: int = 5, seed: int = 0, offset: int = 0) -> list[MiniSample]:
    return list(generate(name, Characters(), length, count, seed, offset))


def test_every_official_data_set_has_a_stand_in() -> None:
    assert set(BUILDERS) == set(TASKS) == set(wording())


@pytest.mark.parametrize("name", NAMES)
def test_records_have_the_official_schema(name: str) -> None:
    for mini in samples(name):
        check_v1(mini.record, name)
        assert mini.record["dataset"] == name and mini.record["language"] == TASKS[name].language
        assert (mini.record["all_classes"] is not None) == (TASKS[name].metric == "classification_score")


@pytest.mark.parametrize("name", NAMES)
def test_the_gold_answer_gets_the_full_score_and_another_ones_does_not(name: str) -> None:
    """Not 1: rouge gives 0.999999995 for equal texts, and less where a Chinese word comes twice."""
    drawn = samples(name, count=12)
    for sample in drawn:
        answers, classes = tuple(sample.record["answers"]), sample.record["all_classes"]
        assert sample_score(name, sample.gold, answers, classes) > 0.85, sample.gold
    crossed = [
        sample_score(name, a.gold, tuple(b.record["answers"]), b.record["all_classes"])
        for a, b in itertools.pairwise(drawn)
    ]
    assert min(crossed) < 0.85, "every answer is right everywhere: the question asks nothing"


@pytest.mark.parametrize("name", NAMES)
def test_prompt_and_answer_fill_the_length_and_never_pass_it(name: str) -> None:
    for mini in samples(name, length=1500):
        tokens = len(wording()[name]["prompt"].format(**mini.record)) + wording()[name]["max_new_tokens"]
        assert 1500 // 2 < tokens <= 1500


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_its_seed_and_index_alone(name: str) -> None:
    assert samples(name, count=5)[3:] == samples(name, count=2, offset=3)
    assert samples(name, seed=0) != samples(name, seed=1)
    assert len({mini.record["_id"] for mini in samples(name, count=5)}) == 5


@pytest.mark.parametrize(
    "name", ["narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh", "hotpotqa", "2wikimqa", "musique", "trec"]
)
def test_the_context_holds_the_asked_sentence_once(name: str) -> None:
    """So the answer is in the context, and at one place."""
    for mini in samples(name, count=10):
        assert len(re.findall(rf"\b{re.escape(mini.record['input'])}", mini.record["context"])) == 1


def test_a_count_is_the_number_of_different_paragraphs() -> None:
    for mini in samples("passage_count", count=10):
        parts = [line.partition(": ")[2] for line in mini.record["context"].split("\n")]
        assert mini.record["answers"] == [str(len(set(parts)))]


def test_questions_on_one_context_are_all_answered_in_it() -> None:
    """What training uses beside the sample's own question."""
    for name, build in BUILDERS.items():
        draft = build(30, random.Random(name))
        for query in draft.queries:
            assert sample_score(name, query.gold, query.answers, draft.all_classes) > 0.85
            assert query.input in prompt(name, draft.context, query)


def test_a_length_too_short_for_any_context_is_said_so() -> None:
    with pytest.raises(LongBenchError, match=r"gov_report does not fit 40 tokens: its smallest prompt needs \d+"):
        fit("gov_report", Characters(), 40)


def test_an_unknown_data_set_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LongBenchError, match="expected one of"):
        generate("qasper_e", Characters(), 500, 1, 0)
