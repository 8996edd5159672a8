"""The task table agrees with the official files and with itself."""

from __future__ import annotations

import json

import pytest

from longbench.errors import LongBenchError
from longbench.metrics import FIRST_LINE_DATASETS, dataset2metric
from longbench.tasks import CATEGORIES, TASKS, TASKS_E, V2, category_means, get_task, official_count


def test_there_are_21_data_sets_and_13_of_them_in_e() -> None:
    assert len(TASKS) == 21 and len(TASKS_E) == 13
    assert sum(task.samples for task in TASKS.values()) == 4750
    assert {task.category for task in TASKS.values()} == set(CATEGORIES)


def test_the_table_names_the_metrics_that_the_scorer_uses() -> None:
    assert {name: task.metric for name, task in TASKS.items()} == {k: f.__name__ for k, f in dataset2metric.items()}
    assert {name for name, task in TASKS.items() if task.first_line} == set(FIRST_LINE_DATASETS)


def test_chat_templates_spare_few_shot_and_code() -> None:
    bare = {name for name, task in TASKS.items() if not task.chat_template}
    assert bare == {name for name, task in TASKS.items() if task.category in ("few_shot", "code")}
    assert [name for name, task in TASKS.items() if task.stop_at_newline] == ["samsum"]


def test_generation_lengths_equal_the_official_file(data_root) -> None:
    official = json.loads((data_root / "longbench_config" / "dataset2maxlen.json").read_text())
    assert {name: task.max_new_tokens for name, task in TASKS.items()} == official


def test_names_of_e_and_v2_are_known() -> None:
    assert get_task("qasper_e") is TASKS["qasper"] and official_count("qasper_e") == 224
    assert get_task("longbench_v2") is V2 and official_count("longbench_v2") == 503


@pytest.mark.parametrize("name", ["squad", "musique_e", "", "Qasper"])
def test_unknown_names_are_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(LongBenchError, match="hotpotqa"):
        get_task(name)


def test_category_means_are_over_data_sets_and_name_the_missing_ones() -> None:
    means = category_means({"lcc": 40.0, "repobench-p": 60.0, "trec": 10.0})
    assert means["code"].mean == 50.0 and means["code"].missing == ()
    assert means["few_shot"].mean == 10.0 and means["few_shot"].missing == ("triviaqa", "samsum", "lsht")
    assert set(means) == {"code", "few_shot"}
    with pytest.raises(LongBenchError, match="squad"):
        category_means({"squad": 1.0})
