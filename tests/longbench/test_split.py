"""Head scores never see test samples, whatever order the file is in."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longbench.errors import LongBenchError
from longbench.split import split_ids

IDS = [f"id-{index}" for index in range(200)]


def test_fifteen_percent_by_default_and_no_id_in_both_parts() -> None:
    split = split_ids("qasper", IDS)
    assert len(split.validation) == 30 and len(split.test) == 170
    assert set(split.validation) | set(split.test) == set(IDS) and not set(split.validation) & set(split.test)


def test_file_order_does_not_matter_and_the_seed_does() -> None:
    shuffled = random.Random(1).sample(IDS, len(IDS))
    assert split_ids("qasper", shuffled) == split_ids("qasper", IDS)
    assert set(split_ids("qasper", IDS, seed=1).validation) != set(split_ids("qasper", IDS).validation)
    assert set(split_ids("trec", IDS).validation) != set(split_ids("qasper", IDS).validation)


def test_a_published_split_can_be_reproduced() -> None:
    assert split_ids("qasper", [f"id-{index}" for index in range(10)], seed=7).validation == SEED_7


SEED_7 = ("id-3", "id-5")


@settings(deadline=None)
@given(st.sets(st.text(min_size=1), min_size=2, max_size=30), st.floats(0.01, 0.99), st.integers())
def test_both_parts_hold_something(ids: set[str], share: float, seed: int) -> None:
    split = split_ids("qasper", ids, seed=seed, validation_share=share)
    assert split.validation and split.test and len(split.validation) + len(split.test) == len(ids)


@pytest.mark.parametrize(
    ("ids", "share", "word"), [(["a"], 0.15, "at least 2"), (["a", "a"], 0.15, "repeated"), (IDS, 1.0, "share")]
)
def test_what_cannot_be_split_is_refused(ids: list[str], share: float, word: str) -> None:
    with pytest.raises(LongBenchError, match=word):
        split_ids("qasper", ids, validation_share=share)
