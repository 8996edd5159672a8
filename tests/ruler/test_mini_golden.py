"""The texts of the `mini` preset do not move: the embedded model was trained on them.

Digests are taken with word lists of the test's own, so that they hold the wording, the parameters and the order of the
draws. Whoever means to change these must train the model again.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict

import pytest

from ruler import frequency, words
from ruler.generate import draft
from ruler.tasks import TASKS

DIGESTS = {
    "niah_single_1": "455f03c434ba0390",
    "niah_single_2": "801b6a7826858f71",
    "niah_single_3": "652f7eefaaf42d66",
    "niah_multikey_1": "17374d49d05b6992",
    "niah_multikey_2": "5c9618c285144d62",
    "niah_multikey_3": "7691a297d56e3206",
    "niah_multivalue": "398088b8ce142341",
    "niah_multiquery": "8e91abc3903b5e32",
    "vt": "e735ca332d48af31",
    "cwe": "7c53d9614e6b0464",
    "fwe": "f0cd399fa8e7da98",
    "qa_1": "470610b93e2ec10c",
    "qa_2": "3b4616318d87a206",
}


@pytest.fixture
def plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, prefix in (
        ("KEYS", "key"),
        ("ADJECTIVES", "adj"),
        ("PEOPLE", "who"),
        ("PLACES", "place"),
        ("THINGS", "thing"),
        ("VERBS_MOVE", "moves"),
        ("VERBS_ACT", "acts"),
        ("PREPOSITIONS", "by"),
        ("TIMES", "time"),
        ("NAMES", "Name"),
        ("MATERIALS", "clay"),
        ("BUILDINGS", "hut"),
        ("COLORS", "red"),
        ("ANIMALS", "cat"),
        ("BOXES", "BOX"),
    ):
        monkeypatch.setattr(words, name, tuple(f"{prefix}{i}" for i in range(70)))
    monkeypatch.setattr(frequency, "VOCABULARY", tuple(f"word{i}" for i in range(300)))


def digest(name: str) -> str:
    task = TASKS["mini"][name]
    total = hashlib.sha256(json.dumps(asdict(task), sort_keys=True).encode())
    for size in (0, 1, 7, 20, 40):
        for seed in range(6):
            samples = draft(task, size, random.Random(f"golden/{seed}"))
            fields = [samples.context, samples.question, samples.answer_prefix, samples.outputs, samples.gold]
            total.update(json.dumps(fields).encode())
    return total.hexdigest()[:16]


@pytest.mark.usefixtures("plain_words")
def test_mini_drafts_are_the_ones_the_model_was_trained_on() -> None:
    assert {name: digest(name) for name in TASKS["mini"]} == DIGESTS
