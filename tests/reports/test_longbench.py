"""LongBench's official numbers as a table: every number and every reason is there, and a broken file is refused."""

from __future__ import annotations

from typing import Any

import pytest

from reports.errors import ReportError
from reports.labels import Labels
from reports.longbench import category_table, check_longbench, longbench_table
from reports.table import to_markdown

LABELS = Labels([], {"full": "Full", "snapkv": "SnapKV"})
ROW = {"task": "qasper_e", "method": "snapkv", "preset": "normalized", "kv_budget": 64, "n": 3, "score": 66.67}
E_ROW = ROW | {"groups": {"0-4k": 50.0, "8k+": 100.0}, "empty": {"4-8k": "no sample of 4000 to 7999 words"}}


def test_buckets_stand_in_order_with_the_reason_of_the_empty_one() -> None:
    full = ROW | {"method": "full", "kv_budget": None, "task": "qasper"}
    table = longbench_table({"protocol": "official", "rows": [full, E_ROW]}, LABELS)
    assert table is not None and table.columns[-3:] == ("0-4k", "4-8k", "8k+")
    texts = [[cell.text for cell in row] for row in table.rows]
    assert texts == [
        ["qasper", "Full", "full", "3", "66.67", "—", "—", "—"],
        ["qasper_e", "SnapKV", "64", "3", "66.67", "50", "—", "100"],
    ]
    assert "qasper_e: no sample of 4000 to 7999 words." in to_markdown(table)


def test_a_row_without_a_feasible_sample_shows_dashes() -> None:
    lacking = {name: value for name, value in ROW.items() if name != "score"} | {"n": 0, "infeasible": 3}
    table = longbench_table({"rows": [lacking]}, LABELS)
    assert table is not None and table.rows[0][-1].text == "—"
    assert longbench_table({"rows": []}, LABELS) is None


def test_means_over_categories_say_what_they_lack() -> None:
    base = {"method": "snapkv", "preset": "normalized", "kv_budget": 64, "datasets": ["qasper"]}
    entries = [
        base | {"category": "single_doc_qa", "mean": 41.256, "missing": ["narrativeqa"]},
        base | {"method": "full", "kv_budget": None, "category": "code", "mean": 50.0, "missing": []},
    ]
    table = category_table({"rows": [], "categories": entries}, LABELS)
    assert table is not None and table.columns == ("Method", "KV budget", "single_doc_qa", "code")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["Full", "full", "—", "50.00"],
        ["SnapKV", "64", "41.26", "—"],
    ]
    assert table.notes == ("single_doc_qa: without narrativeqa.",)
    assert category_table({"rows": []}, LABELS) is None
    with pytest.raises(ReportError, match="categories need"):
        check_longbench({"rows": [], "categories": [{}]}, "run/longbench.json")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("none", "list 'rows'"),
        ([3], "task and a method"),
        ([ROW | {"score": float("nan")}], "score is nan"),
        ([ROW | {"score": True}], "score is True"),
        ([ROW | {"groups": {"0-4k": 101}}], "0-4k is 101"),
        ([ROW | {"groups": {"16k": 1}}], "group '16k'"),
    ],
)
def test_a_broken_file_is_refused_with_one_line(rows: Any, message: str) -> None:
    with pytest.raises(ReportError, match=message) as caught:
        check_longbench({"rows": rows}, "run/longbench.json")
    assert "\n" not in str(caught.value)
