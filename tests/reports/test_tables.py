"""Tables: the best is bold, missing is a dash, and the markup survives any text."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import aggregate
from reports.labels import Labels
from reports.latex import to_latex
from reports.score_tables import score_tables
from reports.side_tables import decode_table, removal_table, stability_table
from reports.table import MISSING, Entry, Table, to_markdown
from reports.tables import difference_tables, memory_table

Make = Callable[..., dict[str, Any]]
TITLES = {"full": "Full", "snapkv": "SnapKV", "adakv": "AdaKV", "duoattention": "DuoAttention", "cokv": "CoKV"}


def labelled(make: Callable[[Any, Labels], Any], metrics: dict[str, Any]) -> Any:
    return make(metrics, Labels(metrics["cells"], TITLES))


def rows_of(table: Table) -> dict[tuple[str, str], dict[str, Entry]]:
    """(method, title of its block) -> column -> cell."""
    titles = [next(title for row, title in reversed(table.blocks) if row <= place) for place in range(len(table.rows))]
    shown = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return {(row["Method"].text, title): row for title, row in zip(titles, shown, strict=True)}


def slots(number: int) -> str:
    return f"{number} KV slots per head"


def scores(record: Make, **means: float | None) -> Table:
    rows = [record("full", None, 100.0, i) for i in range(2)]
    rows += [record(method, 64, mean, i) for method, mean in means.items() for i in range(2)]
    return labelled(score_tables, aggregate(rows))[0]


def bold(table: Table) -> set[str]:
    return {row[0].text for row in table.rows if any(cell.bold for cell in row)}


def test_bold_goes_to_the_best_and_never_to_full(record: Make) -> None:
    assert bold(scores(record, snapkv=40.0, adakv=60.0, cokv=55.0)) == {"AdaKV"}


def test_ties_within_rounding_are_all_bold(record: Make) -> None:
    assert bold(scores(record, snapkv=60.04, adakv=59.96, cokv=59.94)) == {"SnapKV", "AdaKV"}


def test_one_method_alone_is_not_best_of_anything(record: Make) -> None:
    assert bold(scores(record, snapkv=40.0, duoattention=None)) == set()


def test_each_budget_has_its_own_best(record: Make) -> None:
    rows = [
        record("snapkv", 64, 10.0),
        record("cokv", 64, 20.0),
        record("snapkv", 128, 40.0),
        record("cokv", 128, 30.0),
    ]
    table = labelled(score_tables, aggregate(rows))[0]
    best = {place: row["niah_single_1"].bold for place, row in rows_of(table).items()}
    assert best == {
        ("SnapKV", slots(64)): False,
        ("CoKV", slots(64)): True,
        ("SnapKV", slots(128)): True,
        ("CoKV", slots(128)): False,
    }
    assert table.blocks == ((0, slots(64)), (2, slots(128)))


def test_full_is_the_first_row_and_the_average_the_last_column(records: list[dict[str, Any]]) -> None:
    table = labelled(score_tables, aggregate(records))[0]
    assert (table.rows[0][0].text, table.blocks[0], table.columns[-1]) == ("Full", (0, "All positions kept"), "Average")


def test_a_number_and_its_interval_are_those_of_the_metrics(records: list[dict[str, Any]]) -> None:
    metrics = aggregate(records)
    row = next(r for r in metrics["cells"] if (r["task"], r["method"], r["kv_budget"]) == ("vt", "cokv", 128))
    shown = rows_of(labelled(score_tables, metrics)[0])["CoKV", slots(128)]["vt"]
    assert shown.text == f"{row['mean']:.1f}" and shown.detail == f"[{row['low']:.1f}, {row['high']:.1f}]"


def test_infeasible_shows_its_reason_and_never_a_number(records: list[dict[str, Any]]) -> None:
    table = labelled(score_tables, aggregate(records))[0]
    row = rows_of(table)["DuoAttention", slots(64)]
    assert row["vt"] == Entry("(1)") and row["Average"] == Entry("0/8")
    assert any(note.startswith("k/n: no average") for note in table.notes)
    assert any(note.startswith("(1) Infeasible: needs sink + window") for note in table.notes)


def test_what_was_not_run_is_a_dash(record: Make) -> None:
    table = labelled(score_tables, aggregate([record(score=5.0, task="a"), record("cokv", score=6.0, task="b")]))[0]
    assert rows_of(table)["CoKV", slots(64)]["a"] == Entry(MISSING)
    assert not bold(table)


@pytest.mark.parametrize("score", [50.0, 99.0])
def test_fewer_samples_are_marked_and_not_bold(record: Make, score: float) -> None:
    rows = [record(score=50.0, sample=i) for i in range(3)]
    rows += [record("adakv", score=40.0, sample=i) for i in range(3)]
    rows += [record("cokv", score=score, sample=0), record("cokv", score=None, sample=1)]
    table = labelled(score_tables, aggregate(rows))[0]
    shown = rows_of(table)["CoKV", slots(64)]["niah_single_1"]
    assert (shown.text, shown.mark) == (f"{score}", "‡") and not shown.bold and bold(table) == {"SnapKV"}
    assert any(note.startswith("‡") for note in table.notes)


def test_presets_are_named_only_where_they_differ(record: Make) -> None:
    table = labelled(score_tables, aggregate([record(score=1.0), record(score=2.0, preset="official")]))[0]
    assert {row[0].text for row in table.rows} == {"SnapKV", "SnapKV (official)"}
    protocols = labelled(score_tables, aggregate([record(score=1.0), record(score=2.0, query_aware=False)]))[0]
    assert {row[0].text for row in protocols.rows} == {"SnapKV (question seen)", "SnapKV (question unseen)"}


def test_every_benchmark_has_its_own_table(record: Make) -> None:
    tables = labelled(score_tables, aggregate([record(score=1.0), record(score=2.0, benchmark="longbench")]))
    assert [table.name for table in tables] == ["scores_longbench", "scores_ruler"]


def test_differences_are_signed_and_carry_a_plain_word(records: list[dict[str, Any]]) -> None:
    overall, per_task = labelled(difference_tables, aggregate(records))
    cokv = next(row for row in overall.rows if row[2].text == "CoKV" and row[1].text == "64")
    assert cokv[3].text.startswith("+") and cokv[-1] == Entry("better", bold=True)
    assert {row[-1].text for row in per_task.rows} <= {"better", "worse", "no difference shown", "no pairs"}
    assert len(per_task.rows) == 8 * 5 * 3


def test_no_baseline_no_difference_table(records: list[dict[str, Any]]) -> None:
    assert labelled(difference_tables, aggregate(records, baseline="nobody")) == []


def test_memory_shows_nominal_and_measured_and_slack_apart(records: list[dict[str, Any]]) -> None:
    table = labelled(memory_table, aggregate(records))
    snap = next(row for row in table.rows if row[1].text == "64" and row[2].text == "SnapKV")
    shown = dict(zip(table.columns, (cell.text for cell in snap), strict=True))
    assert (shown["Kept KiB"], shown["Slack KiB"], shown["Nominal share"]) == ("256.0", "64.0", shown["Kept share"])


def test_stability_compares_the_error_with_one_over_n(stability: dict[str, Any]) -> None:
    stability["tasks"]["niah_single_1"]["mae"] = 0.2
    table = stability_table(stability)
    assert table is not None
    shown = {row[0].text: row[3].text for row in table.rows}
    assert shown["niah_single_1"] == "no" and shown["niah_multikey_1"] == "yes"


def test_absent_stability_numbers_are_dashes(stability: dict[str, Any]) -> None:
    del stability["tasks"]["niah_single_1"]["spearman"]
    stability["tasks"]["niah_single_1"]["interval"] = None
    table = stability_table(stability)
    assert table is not None
    row = next(row for row in table.rows if row[0].text == "niah_single_1")
    assert row[5].text == MISSING and row[6].text == MISSING


def test_head_removal_states_the_share_that_is_left(stability: dict[str, Any]) -> None:
    table = removal_table(stability)
    assert table is not None
    row = next(row for row in table.rows if row[1].text == "top 2 of 16")
    assert (row[2].text, row[2].detail, row[4].text) == ("36.0", "[29.0, 42.0]", "37.5%")
    bare = copy.deepcopy(stability)
    for entry in bare["tasks"].values():
        del entry["head_removal"]
    assert removal_table(bare) is None


def test_decode_puts_the_baselines_first_and_leaves_out_what_was_not_measured(measurements: dict[str, Any]) -> None:
    table = decode_table(measurements, Labels([], TITLES))
    assert table is not None
    assert [row[1].text for row in table.rows[:2]] == ["DynamicCache", "ragged"]
    assert "Peak RSS MiB" in table.columns and "Peak CUDA MiB" not in table.columns
    assert any("Not measured" in note and "Peak CUDA MiB" in note for note in table.notes)
    measurements["decode"][0]["peak_bytes"] = {"cuda": 2**20}
    mixed = decode_table(measurements, Labels([], TITLES))
    assert mixed is not None
    shown = {row[0].text: dict(zip(mixed.columns, (c.text for c in row), strict=True)) for row in mixed.rows}
    assert (shown["CoKV"]["Peak CUDA MiB"], shown["CoKV"]["Peak RSS MiB"]) == ("1.00", MISSING)


def test_no_decode_measurements_no_table() -> None:
    assert decode_table({"machine": {}, "versions": {}, "decode": []}, Labels([], TITLES)) is None


def assert_latex_is_balanced(text: str) -> None:
    bare = re.sub(r"\\[\\{}$&#%_]", "", text)  # what is escaped, and line ends
    bare = re.sub(r"(?m)%.*$", "", bare)  # comments
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0, "a brace closes what was never opened"
    assert depth == 0, "a brace stays open"
    assert bare.count("$") % 2 == 0, "mathematics stays open"
    math = re.sub(r"\$\^(\\circ|{(\\d?dagger)+})\$|\\\^{\\?[A-Za-z]}", "", bare)  # a degree, marks, an accent
    assert not re.search(r"[_^#]", math), "a special character is not escaped"
    begun, ended = re.findall(r"\\begin{(\w+)}", text), re.findall(r"\\end{(\w+)}", text)
    assert begun == ended[::-1], f"environments {begun} against {ended}"


def assert_latex_columns_fit(text: str) -> None:
    """Every row of a tabular fills the columns that it declares."""
    columns = 0
    for line in text.splitlines():
        if begin := re.search(r"\\begin{tabular}{@{}([lr]+)@{}}", line):
            columns = len(begin[1])
        if line.endswith(r" \\"):
            spans = [int(span) for span in re.findall(r"\\multicolumn{(\d+)}", line)]
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            assert cells - len(spans) + sum(spans) == columns, line
    assert columns, "no tabular"


@given(
    title=st.text(max_size=30), column=st.text(max_size=20), text=st.text(max_size=20), detail=st.text(max_size=20),
    note=st.text(max_size=30),
)  # fmt: skip
def test_any_text_gives_balanced_latex_and_whole_markdown_rows(
    title: str, column: str, text: str, detail: str, note: str
) -> None:
    hard = r"a_b & 100% \{x} $5 #1 ~ ^ <|>"
    table = Table("t", title, (column, hard), ((Entry(text, detail, bold=True), Entry(hard)),), (note,))
    latex = to_latex(table)
    assert_latex_is_balanced(latex)
    assert_latex_columns_fit(latex)
    rows = [line for line in to_markdown(table).split("\n") if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) for row in rows] == [3, 3, 3]


def test_every_table_of_a_run_is_balanced_latex(
    records: list[dict[str, Any]], stability: dict[str, Any], measurements: dict[str, Any]
) -> None:
    metrics = aggregate(records)
    tables: list[Table | None] = [*labelled(score_tables, metrics), *labelled(difference_tables, metrics)]
    tables += [labelled(memory_table, metrics), stability_table(stability), removal_table(stability)]
    tables.append(decode_table(measurements, Labels([], TITLES)))
    for table in tables:
        assert table is not None
        latex = to_latex(table)
        assert_latex_is_balanced(latex)
        assert_latex_columns_fit(latex)
        assert all(word in latex for word in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_bold_is_bold_in_every_language() -> None:
    table = Table("t", "T", ("a", "b"), ((Entry("x"), Entry("9.5", "[9.0, 9.9]", bold=True)),))
    assert "**9.5** [9.0, 9.9]" in to_markdown(table)
    assert r"\shortstack{\textbf{9.5}\\{\fontsize{5}{5}\selectfont {[}9.0, 9.9]}}" in to_latex(table)


@pytest.mark.parametrize(("text", "shown"), [("niah_single_1", "niah_single_1"), ("_x_", r"\_x\_"), ("a|b", r"a\|b")])
def test_markdown_escapes_what_would_be_markup_only(text: str, shown: str) -> None:
    assert shown in to_markdown(Table("t", "T", (text,), ()))


def test_reasons_that_differ_in_a_prompts_length_are_one_note(record: Make) -> None:
    tried = [record("snapkv", 64, 50.0, n) for n in range(3)]
    refused = [record("duoattention", 64, None, n, infeasible=f"needs {n + 80} slots") for n in range(3)]
    (table,) = labelled(score_tables, aggregate([*tried, *refused]))
    assert [note for note in table.notes if "Infeasible" in note] == ["(1) Infeasible: needs 80 slots."]
    assert any("first prompt" in note for note in table.notes)
