"""Score tables as papers print them: categories, families, marks; and the same numbers in CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from cokv.methods.registry import METHODS
from longbench.tasks import TASKS as LONGBENCH
from reports import aggregate
from reports.categories import CATEGORIES, category, grouped, short_name
from reports.families import FAMILIES, OTHERS, family, family_place
from reports.findings import findings
from reports.labels import LONGEST, Labels
from reports.overview import overview_table
from reports.report import write_report
from reports.score_tables import PARTIAL, SIGNIFICANT, best_two, score_tables
from reports.section import INLINE_ROWS, inline_rows, shown
from reports.table import Entry, Table, companion, to_markdown
from reports.table_files import raw_rows, to_csv, to_parquet
from ruler.tasks import TASKS as RULER

Make = Callable[..., dict[str, Any]]


def row(mean: float | None, **more: Any) -> dict[str, Any]:
    return {} if mean is None else {"mean": mean, **more}


def labels_of(metrics: dict[str, Any], ranks: bool = True) -> Labels:
    return Labels(metrics["cells"], ranks=ranks)


def test_every_method_of_the_registry_has_a_family_and_none_has_two() -> None:
    listed = [name for names in FAMILIES.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(METHODS) == set(listed), "a new method needs its place in reports/families.py"
    assert family("somebody.else:Press") == OTHERS and family_place("somebody.else:Press") == len(FAMILIES)


def test_the_full_cache_comes_first_and_plugins_last(record: Make) -> None:
    rows = [record(name, 64, 50.0) for name in ("my.module:Best", "cokv", "kivi4", "snapkv", "streamingllm")]
    rows.append(record("full", None, 90.0))
    order = [variant.method for variant in labels_of(aggregate(rows)).variants]
    assert order == ["full", "streamingllm", "snapkv", "cokv", "kivi4", "my.module:Best"]


def test_longbench_categories_are_its_own() -> None:
    theirs: dict[str, list[str]] = {}
    for task in LONGBENCH.values():
        theirs.setdefault(task.category, []).append(task.name)
    assert [list(tasks) for tasks in CATEGORIES["longbench"].values()] == list(theirs.values())


def test_every_ruler_task_has_a_category_and_groups_keep_the_papers_order() -> None:
    tasks = list(next(iter(RULER.values())))
    groups = grouped("ruler", reversed(tasks))
    assert list(groups) == ["Retrieval", "Multi-hop tracing", "Aggregation", "QA"]
    assert sorted(task for members in groups.values() for task in members) == sorted(tasks)
    assert groups["Aggregation"] == ["cwe", "fwe"] and category("ruler", "vt") == "Multi-hop tracing"


def test_a_task_that_no_paper_knows_stands_last_under_its_own_name() -> None:
    assert grouped("ruler", ["mine", "vt"]) == {"Multi-hop tracing": ["vt"], "": ["mine"]}
    assert grouped("other", ["b", "a"]) == {"": ["a", "b"]} and category("ruler", "mine") is None
    assert (short_name("ruler", "mine"), short_name("longbench", "qasper_e")) == ("mine", "Qasper-E")


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([10.0, 20.0, 30.0], ("30.0", "20.0")),
        ([30.0, 30.04, 20.0], ("30.0", "20.0")),
        ([30.0, 20.0], ("30.0", None)),
        ([30.0], (None, None)),
        ([30.0, None], (None, None)),
        ([0.0, 0.0, 0.0], (None, None)),
    ],
)
def test_best_and_second_are_printed_means(means: list[float | None], expected: tuple[str | None, str | None]) -> None:
    assert best_two(row(mean) for mean in means) == expected
    assert best_two([*(row(mean) for mean in means), row(99.0, partial=True)]) == expected, "of fewer samples: apart"


def test_the_second_is_underlined_ties_alike(record: Make) -> None:
    means = {"snapkv": 40.0, "adakv": 60.0, "cokv": 60.0, "h2o": 70.0}
    rows = [record(method, 64, mean, i) for method, mean in means.items() for i in range(2)]
    (table,) = score_tables(aggregate(rows), labels_of(aggregate(rows)))
    assert {r[0].text for r in table.rows if r[1].underline} == {"adakv", "cokv"}
    assert {r[0].text for r in table.rows if r[1].bold} == {"h2o"}
    text = to_markdown(table)
    assert "**70.0**" in text and text.count("<ins>60.0</ins>") == 2


@pytest.mark.parametrize("ranks", [True, False])
def test_the_sign_is_the_metrics_own_verdict_on_each_difference(records: list[dict[str, Any]], ranks: bool) -> None:
    metrics = aggregate(records)
    (table,) = score_tables(metrics, labels_of(metrics, ranks))
    titles = [next(title for at, title in reversed(table.blocks) if at <= place) for place in range(len(table.rows))]
    signs = {
        (column, line[0].text, title)
        for line, title in zip(table.rows, titles, strict=True)
        for column, item in zip(table.columns, line, strict=True)
        if SIGNIFICANT in item.mark
    }
    expected = {
        (r.get("task", "Average"), r["method"], f"{r['kv_budget']} KV slots per head")
        for key in ("differences", "differences_all_tasks")
        for r in metrics[key]
        if r.get("significant")
    }
    assert signs == expected and expected
    assert any(note.startswith(SIGNIFICANT) and "Holm" in note for note in table.notes), "the correction is said"
    overview = overview_table(metrics, labels_of(metrics, ranks))
    assert overview is not None and any(item.mark == SIGNIFICANT for line in overview.rows for item in line)


def test_no_sign_without_a_corrected_p_value(records: list[dict[str, Any]]) -> None:
    metrics = aggregate(records)
    for key in ("differences", "differences_all_tasks"):
        metrics[key] = [{k: v for k, v in r.items() if k != "significant"} for r in metrics[key]]
    (table,) = score_tables(metrics, labels_of(metrics))
    assert not any(item.mark for line in table.rows for item in line)
    assert SIGNIFICANT != PARTIAL


def test_the_companion_holds_the_intervals_in_the_same_places(records: list[dict[str, Any]]) -> None:
    metrics = aggregate(records)
    (table,) = score_tables(metrics, labels_of(metrics))
    intervals = companion(table, "intervals")
    assert intervals is not None and (intervals.columns, intervals.blocks) == (table.columns, table.blocks)
    for line, beside in zip(table.rows, intervals.rows, strict=True):
        assert beside[0] == line[0]
        for item, interval in zip(line[1:], beside[1:], strict=True):
            assert interval.text == (item.detail or item.text) and not interval.bold
    assert companion(Table("t", "T", ("a",), ((Entry("x"),),)), "intervals") is None


def test_files_hold_the_metrics_numbers_in_full(records: list[dict[str, Any]], tmp_path: Path) -> None:
    metrics = aggregate(records)
    (table,) = score_tables(metrics, labels_of(metrics))
    read = list(csv.DictReader(io.StringIO(to_csv(raw_rows(table)))))
    assert len(read) == len(metrics["cells"]) + len(metrics["averages"])
    cell = next(r for r in metrics["cells"] if (r["task"], r["method"], r["kv_budget"]) == ("vt", "cokv", 64))
    pair = next(r for r in metrics["differences"] if (r["task"], r["method"], r["kv_budget"]) == ("vt", "cokv", 64))
    (found_row,) = [r for r in read if (r["task"], r["method"], r["kv_budget"]) == ("vt", "cokv", "64")]
    assert [float(found_row[k]) for k in ("mean", "low", "high", "n")] == [
        cell[k] for k in ("mean", "low", "high", "n")
    ]
    assert float(found_row["p_holm"]) == pair["p_holm"] and found_row["significant"] == str(pair["significant"])
    missing = next(r for r in read if r["method"] == "duoattention" and r["kv_budget"] == "64" and r["task"] == "vt")
    assert missing["mean"] == "" and "needs sink" in missing["reason"], "missing stays missing"
    path = tmp_path / "table.parquet"
    path.write_bytes(to_parquet(raw_rows(table)))
    assert [
        {k: "" if v is None else str(v) for k, v in r.items()} for r in parquet.read_table(path).to_pylist()
    ] == read


def test_a_table_without_raw_numbers_gives_its_cells() -> None:
    table = Table("t", "T", ("a", "a"), ((Entry("1.0", "[0, 2]"), Entry("x\x1b")),))
    assert raw_rows(table) == [{"a": "1.0", "a detail": "[0, 2]", "a (2)": "x<U+001B>"}]
    assert to_csv([]) == "\n" or to_csv([]) == ""


def test_titles_of_any_length_stay_short_and_tell_rows_apart(record: Make) -> None:
    rows = [record(f"m{number}", 64, 50.0) for number in range(3)]
    titles = {f"m{number}": "long " * 100 + str(number) for number in range(3)}
    labels = Labels(rows, titles)
    names = [labels.name(variant) for variant in labels.variants]
    assert len(set(names)) == 3 and all(len(name) <= LONGEST + 4 for name in names)


def test_what_was_found_has_intervals_and_ranks_nothing_that_cannot_be_ranked(records: list[dict[str, Any]]) -> None:
    metrics = aggregate(records)
    best, near, kept = findings(metrics, labels_of(metrics))
    top = max((r for r in metrics["averages"] if r["kv_budget"] == 128 and "mean" in r), key=lambda r: r["mean"])
    assert f"at 128 slots {top['method']} with {top['mean']:.1f} [{top['low']:.1f}, {top['high']:.1f}]" in best
    assert near.startswith("Not told apart from the best") and kept.startswith("Not told apart from the full cache")
    told = [r for r in metrics["averages"] if r["kv_budget"] == 128 and r.get("high", 101) < top["low"]]
    at_128 = near[near.index("at 128") : near.index("at 256")]
    assert told and not any(f"{r['method']} (" in at_128 for r in told), "they are told apart"
    unranked = " ".join(findings(metrics, labels_of(metrics, ranks=False)))
    assert "no ranking follows" in unranked and "Best" not in unranked and "full cache scores" in unranked


def test_a_long_table_is_shown_as_far_as_whole_blocks_go() -> None:
    rows = tuple((Entry(str(number)),) for number in range(100))
    table = Table("t", "T", ("a",), rows, blocks=((0, "one"), (40, "two"), (70, "three")))
    assert inline_rows(table) == range(40)
    text = "\n".join(shown(table))
    assert "*one*" in text and "*two*" not in text and "40 of its 100 rows are here. [T](tables/t.md), as" in text
    bare = Table("t", "T", ("a",), rows)
    assert inline_rows(bare) == range(0) and len(rows) > INLINE_ROWS


def test_the_report_begins_with_what_was_found_and_ends_with_the_environment(whole_report: Path) -> None:
    text = (whole_report / "report.md").read_text()
    heads = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert heads == [
        "What was found", "Overview", "Scores by task", "Beside published numbers", "Head scores", "Memory and latency",
    ]  # fmt: skip
    assert text.rstrip().endswith("</details>") and text.count("<details>") == 1
    assert text.index("## Memory") < text.index("<details><summary>Specification, machine and versions")


@pytest.mark.slow
def test_many_tasks_methods_and_budgets_stay_within_400_lines(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text().splitlines()]
    few = [line for line in lines if line["sample_id"].endswith(("/0", "/1")) and line["task"] in ("vt", "cwe")]
    many = [{**line, "task": f"task_{number:02d}"} for number in range(17) for line in few]
    more = [
        {**line, "method": f"m{number:02d}"}
        for number in range(28)
        for line in many
        if line["method"] == "streamingllm"
    ]
    rows = [{**line, "benchmark": name} for name in ("ruler", "longbench_mini") for line in [*many, *more]]
    unique = {(r["benchmark"], r["task"], r["method"], r["kv_budget"], r["sample_id"]): r for r in rows}
    rows = list(unique.values())
    (run_dir / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    (run_dir / "metrics.json").write_text(json.dumps(aggregate(rows)))
    page = write_report(run_dir) / "report.md"
    assert len(page.read_text().splitlines()) <= 400
