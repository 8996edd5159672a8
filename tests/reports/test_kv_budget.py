"""A budget is a number of slots or a share of the prompt: each has its order, its text and its place on an axis."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports import ReportError, aggregate, load_run, write_report
from reports.kv_budget import budget_order, budget_text, budget_words, is_budget, slot_positions
from reports.labels import Labels
from reports.longbench import category_table, check_longbench, longbench_table
from reports.overview import overview_table
from reports.overview_plot import overview_figure
from reports.plots import score_figure
from reports.score_tables import score_tables
from reports.side_tables import decode_table
from reports.table import column_words
from reports.tables import difference_tables, memory_table

Make = Callable[..., dict[str, Any]]


def shares(record: Make, number: int = 3) -> list[dict[str, Any]]:
    """Two methods at 256 slots and at a tenth and a fifth of prompts of 1000, 1100 and 1200 tokens."""
    rows = []
    for sample in range(number):
        tokens = 1000 + 100 * sample
        rows.append(record("full", None, 100.0, sample, prompt_tokens=tokens, kv_slots=None))
        for method, score in (("snapkv", 40.0), ("cokv", 60.0)):
            rows.append(record(method, 256, score + 20, sample, prompt_tokens=tokens, kv_slots=256))
            for percent in (20, 10):
                slots = {"prompt_tokens": tokens, "kv_slots": tokens * percent // 100}
                rows.append(record(method, f"{percent}%", score + percent, sample, **slots))
    return rows


@pytest.fixture
def metrics(record: Make) -> dict[str, Any]:
    return aggregate(shares(record))


@pytest.fixture
def labels(metrics: dict[str, Any]) -> Labels:
    return Labels(metrics["cells"])


def test_slots_come_before_shares_and_each_ascends() -> None:
    mixed = ["100%", 256, "5%", None, 64, "12.5%", 1024]
    assert sorted(mixed, key=budget_order) == [None, 64, 256, 1024, "5%", "12.5%", "100%"]
    assert [budget_text(budget) for budget in (None, 64, "20%", "12.50%")] == ["full", "64", "20 %", "12.5 %"]


@pytest.mark.parametrize("budget", [0, -1, True, 2.5, "20", "0%", "101%", "-5%", "20 %", "%", "1e1%", "\u0662%"])
def test_anything_else_is_no_budget(record: Make, budget: Any) -> None:
    assert not is_budget(budget)
    with pytest.raises(ReportError, match=r'kv_budget.*a share such as "20%"'):
        aggregate([{**record(), "kv_budget": budget, "kv_slots": 5}])


@pytest.mark.parametrize("slots", [None, -1, 2.5, True, "200"])
def test_a_share_needs_its_slots(record: Make, slots: Any) -> None:
    with pytest.raises(ReportError, match="kv_slots"):
        aggregate([{**record(), "kv_budget": "20%", "kv_slots": slots}])


def test_an_infeasible_share_may_lack_its_slots(record: Make) -> None:
    row = aggregate([{**record(), "kv_budget": "20%", "score": None, "infeasible": "too small"}])["cells"][0]
    assert row["infeasible"] == {"too small": 1} and "kv_slots" not in row


def test_metrics_of_slots_alone_do_not_depend_on_kv_slots(records: list[dict[str, Any]]) -> None:
    stated = [{**record, "kv_slots": record["kv_budget"]} for record in records]
    assert json.dumps(aggregate(stated)) == json.dumps(aggregate(records))
    assert "kv_slots" not in json.dumps(aggregate(records))


def test_metrics_hold_the_mean_slots_of_a_share(metrics: dict[str, Any]) -> None:
    for part in ("cells", "averages", "memory"):
        budgets = [(row["kv_budget"], row.get("kv_slots")) for row in metrics[part] if row["method"] == "cokv"]
        assert budgets == [(256, None), ("10%", 110.0), ("20%", 220.0)], part
    assert [row["nominal_share"] for row in metrics["memory"] if row["kv_budget"] == "20%"] == [0.2, 0.2]
    assert [row["kv_budget"] for row in metrics["differences"]] == [256, "10%", "20%"]


def test_the_slots_of_a_share_are_part_of_the_digest(record: Make) -> None:
    rows = shares(record)
    changed = [{**row, "kv_slots": row["kv_slots"] + 1 if row["kv_slots"] else None} for row in rows]
    assert aggregate(rows)["records_digest"] != aggregate(changed)["records_digest"]


def test_tables_print_a_share_with_its_mean_slots(metrics: dict[str, Any], labels: Labels) -> None:
    (table,) = score_tables(metrics, labels)
    assert [row[0].text for row in table.rows] == ["full", *["snapkv", "cokv"] * 3]
    assert table.blocks == (
        (0, "All positions kept"),
        (1, "256 KV slots per head"),
        (3, "10 % of the prompt (110 slots)"),
        (5, "20 % of the prompt (220 slots)"),
    )
    difference = difference_tables(metrics, labels)[0]
    assert [row[1].text for row in difference.rows] == ["256", "10 %", "20 %"]
    assert [row[1].detail for row in memory_table(metrics, labels).rows][-1] == "(220 slots)"


def test_the_overview_names_each_share_and_explains_it_once(metrics: dict[str, Any], labels: Labels) -> None:
    table = overview_table(metrics, labels)
    assert table is not None and table.columns == ("Method", "all", "256", "10 %", "20 %")
    assert "10 % is 110 slots, 20 % is 220 slots on average" in table.notes[0]
    assert column_words("ruler 10 %") == ["ruler", "10 %"]
    figure = overview_figure(metrics, labels)
    assert figure is not None
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {"Full cache", "256 slots", "10 % of the prompt", "20 % of the prompt"}


def test_a_share_lies_at_its_mean_slots(metrics: dict[str, Any], labels: Labels) -> None:
    assert slot_positions(metrics["cells"]) == {256: 256, "10%": 110.0, "20%": 220.0}
    figure = score_figure(metrics, labels, "ruler")
    assert figure is not None
    (axis,) = figure.axes
    ticks = dict(zip(axis.get_xticks(), (tick.get_text() for tick in axis.get_xticklabels()), strict=True))
    assert ticks == {256: "256", 110: "\n10 %", 220: "\n20 %"}
    places = [np.asarray(bars[0].get_xdata(), dtype=float) for bars in axis.containers]  # type: ignore[index]
    assert len(places) == 2
    for place in places:
        np.testing.assert_allclose(place, [110, 220, 256], rtol=0.02)


def test_longbench_and_decode_rows_take_shares(measurements: dict[str, Any], labels: Labels) -> None:
    row = {"task": "qasper", "method": "cokv", "preset": "normalized", "kv_budget": "20%", "kv_slots": 212.6, "n": 3}
    value = {"rows": [row], "categories": [{**row, "category": "code", "mean": 3.0}]}
    check_longbench(value, "run/longbench.json")
    table, means = longbench_table(value, labels), category_table(value, labels)
    assert table is not None and means is not None
    assert (table.rows[0][2].text, table.rows[0][2].detail) == ("20 %", "(213 slots)")
    assert (means.rows[0][1].text, means.rows[0][1].detail) == ("20 %", "(213 slots)")
    with pytest.raises(ReportError, match="kv_budget is '20'"):
        check_longbench({"rows": [{**row, "kv_budget": "20"}]}, "run/longbench.json")
    measurements["decode"][0] |= {"kv_budget": "20%", "kv_slots": 200}
    decode = decode_table(measurements, labels)
    assert decode is not None and (decode.rows[-1][2].text, decode.rows[-1][2].detail) == ("20 %", "(200 slots)")


def test_a_run_with_shares_has_a_whole_report(bare_run: Path, record: Make) -> None:
    rows = shares(record)
    (bare_run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (bare_run / "metrics.json").write_text(json.dumps(aggregate(rows)))
    assert load_run(bare_run).metrics == json.loads(json.dumps(aggregate(rows)))
    text = (write_report(bare_run) / "report.md").read_text()
    assert "| *20 % of the prompt (220 slots)* |" in text


def test_words_for_a_sentence() -> None:
    assert budget_words({"kv_budget": 64}) == "64 KV slots per head"
    assert budget_words({"kv_budget": "20%", "kv_slots": 212.6}) == "20 % of the prompt (213 slots)"
    assert budget_words({"kv_budget": "20%"}) == "20 % of the prompt"
