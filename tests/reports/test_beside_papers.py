"""A run beside published values: what stands beside what, the difference, and every field that differs.

All scores are SYNTHETIC.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from published_run import LLAMA, OTHER, SIXTEEN, write_published_run

from reports import ReportError, load_run
from reports.beside_papers import beside_papers
from reports.beside_tables import FIELDS_TABLE
from reports.comparisons import Comparison, compare_averages, compare_cells
from reports.latex import to_latex
from reports.reported import published_values
from reports.reported.sources import NOT_STATED
from reports.table import to_markdown

WORDS = {"full": "FullKV", "snapkv": "SnapKV", "cokv": "CoKV", "pyramidkv": "PyramidKV", "adakv": "Ada-SnapKV"}
COKV = {
    (row.dataset, row.method, row.budget): row.value
    for row in published_values()
    if row.paper == "CoKV" and row.model == "Meta-Llama-3-8B-Instruct"
}


def as_published(task: str, method: str, budget: int | None, sample: int) -> float:
    """What CoKV's Table 1 prints."""
    return COKV[task, WORDS[method], "full" if budget is None else str(budget)]


def spread(task: str, method: str, budget: int | None, sample: int) -> float:
    """Samples differ, the full cache is better, and what another method loses differs by sample."""
    return 40.0 + 9 * sample - (0 if budget is None else 3 * (sample % 3) + 5)


def found(c: Comparison) -> set[str]:
    return {d.field for d in c.differences if d.known}


def only(comparisons: list[Comparison], **fields) -> Comparison:
    (one,) = [
        c
        for c in comparisons
        if all(getattr(c.published, name, getattr(c, name, None)) == value for name, value in fields.items())
    ]
    return one


@pytest.fixture(scope="module")
def equal(tmp_path_factory) -> Path:
    """Of the published model, with the published scores."""
    return write_published_run(tmp_path_factory.mktemp("runs") / "equal-0", as_published)


# ---- the law: equal scores differ by nothing, and the fields that differ are listed


def test_equal_scores_differ_by_0_and_the_fields_that_differ_are_listed(equal):
    cells = compare_cells(load_run(equal), "CoKV")
    assert len(cells) == 16 * 3 and not any(c.relative for c in cells)
    assert all(c.difference == 0 for c in cells)
    assert all({"samples", "split"} <= found(c) for c in cells)
    full, snapkv, cokv = (only(cells, dataset="qasper", method=WORDS[m]) for m in ("full", "snapkv", "cokv"))
    assert found(full) == {"samples", "split"}
    assert found(snapkv) == {"samples", "split", "rounding"}
    assert found(cokv) == {"samples", "split", "rounding", "alpha", "profile"}
    averages = compare_averages(load_run(equal), "CoKV")
    assert {c.published.method: round(c.published.value, 2) for c in averages} == {
        "FullKV": 41.73,
        "SnapKV": 34.94,
        "CoKV": 38.73,
    }
    assert all(abs(c.difference) < 1e-4 and not c.printed for c in averages)  # metrics have four decimals


def test_a_run_under_the_published_protocol_differs_only_in_which_samples(tmp_path):
    run = write_published_run(
        tmp_path / "x-0", as_published, tasks=("qasper",), methods=("full", "snapkv"), samples=170
    )  # 85 % of 200
    cells = compare_cells(load_run(run), "CoKV")
    assert found(only(cells, method="FullKV")) == {"split"}
    assert found(only(cells, method="SnapKV")) == {"split", "rounding"}


@pytest.mark.parametrize(
    ("changes", "field", "here", "there"),
    [
        ({"model.dtype": "float32"}, "dtype", "float32", "bfloat16"),
        ({"model.attention": "sdpa"}, "attention", "sdpa", "flash_attention_2"),
        ({"model.gguf": "ab"}, "weights", "dequantized from GGUF", "as published"),
        ({"benchmarks.longbench.protocol.max_length": 7500}, "max_length", "7500", "8000"),
        ({"benchmarks.longbench.protocol.max_lengths": [["llama-3", 900]]}, "max_length", "900", "8000"),
        ({"benchmarks.longbench.protocol.truncation": "head"}, "truncation", "head", "middle"),
        ({"benchmarks.longbench.protocol.eos": "generation_config"}, "eos", "generation_config", "tokenizer"),
        ({"benchmarks.longbench.protocol.min_new_tokens": 1}, "min_new_tokens", "1", "0"),
        ({"benchmarks.longbench.protocol.extra_new_tokens": 20}, "new_tokens", "official and 20 more", "official"),
        ({"benchmarks.longbench.protocol.max_new_tokens": 8}, "new_tokens", "8", "official"),
        ({"benchmarks.longbench.protocol.max_new_tokens": [["qasper", 9]]}, "new_tokens", "9", "official"),
        (
            {"benchmarks.longbench.protocol.strip": True},
            "metric",
            "official, on answers that the protocol cuts",
            "official",
        ),
        (
            {"benchmarks.longbench.protocol.newline_stop": ["qasper"]},
            "newline_stop",
            "ends at a newline",
            "does not end at a newline",
        ),
    ],
)
def test_every_changed_field_is_listed_with_both_values(tmp_path, changes, field, here, there):
    run = write_published_run(tmp_path / "x-0", as_published, tasks=("qasper",), methods=("full",), changes=changes)
    (cell,) = compare_cells(load_run(run), "CoKV")
    (difference,) = [d for d in cell.differences if d.field == field]
    assert (difference.here, difference.there) == (here, there) and difference.known and difference.where
    plain = write_published_run(tmp_path / "y-0", as_published, tasks=("qasper",), methods=("full",))
    assert field not in found(compare_cells(load_run(plain), "CoKV")[0])


def test_a_methods_changed_parameters_are_listed(tmp_path):
    parameters = {"window_size": 32, "kernel_size": 5, "pooling": "avg"}
    run = write_published_run(
        tmp_path / "x-0", as_published, tasks=("qasper",), methods=("full", "snapkv"), parameters=parameters
    )
    cell = only(compare_cells(load_run(run), "CoKV"), method="SnapKV")
    values = {d.field: (d.here, d.there) for d in cell.differences}
    assert values["window_size"] == ("32", "8") and values["kernel_size"] == ("5", "7")
    assert values["pooling"] == ("avg", "max")


def test_a_chat_template_counts_where_it_is_used(tmp_path):
    notes = ("protocol cokv (chat=task)", "in the model's chat template")
    run = write_published_run(tmp_path / "x-0", as_published, tasks=("qasper",), methods=("full",), notes=notes)
    cells = compare_cells(load_run(run))
    assert "chat" in found(only(cells, paper="CoKV"))
    notes_of = {
        c.published.note: found(c) for c in compare_cells(load_run(run)) if c.published.paper == "KVCache-Factory"
    }
    assert not notes_of  # qasper is none of its six data sets


def test_the_template_decides_which_of_two_published_values_is_alike(tmp_path):
    notes = ("in the model's chat template",)
    run = write_published_run(
        tmp_path / "x-0", lambda *_: 41.0, tasks=("multifieldqa_en",), methods=("full",), notes=notes
    )
    cells = [c for c in compare_cells(load_run(run)) if c.published.paper == "KVCache-Factory"]
    by_value = {c.published.value: "chat" in found(c) for c in cells}
    assert by_value == {41.15: True, 47.78: False}


def test_query_head_budgets_are_named_as_such(tmp_path):
    run = write_published_run(tmp_path / "x-0", lambda *_: 20.0, methods=("full", "snapkv"), tasks=("qasper",))
    heads = {
        c.published.paper: "heads" in found(c) for c in compare_cells(load_run(run)) if c.published.method == "SnapKV"
    }
    assert heads == {"CoKV": False, "PyramidKV": True, "HeadKV": True}


# ---- another model: relative to the full cache


def test_another_model_is_compared_relative_to_its_own_full_cache(tmp_path):
    run = write_published_run(tmp_path / "x-0", as_published, model=OTHER)
    cells = compare_cells(load_run(run), "CoKV")
    assert len(cells) == 16 * 2, "a full cache relative to itself says nothing"
    assert all(c.relative and "model" in found(c) for c in cells)
    assert all(abs(c.difference) < 1e-9 for c in cells)
    one = only(cells, dataset="qasper", method="SnapKV")
    assert one.value == pytest.approx(100 * COKV["qasper", "SnapKV", "64"] / COKV["qasper", "FullKV", "full"])
    averages = compare_averages(load_run(run), "CoKV")
    assert {c.published.method: round(c.value, 1) for c in averages} == {"SnapKV": 83.7, "CoKV": 92.8}
    assert all(abs(c.difference) < 1e-9 for c in averages)


def test_a_share_has_an_interval_from_pairs(tmp_path):
    def apart(task: str, method: str, budget: int | None, sample: int) -> float:
        """The same scores, the method's in the opposite order."""
        return spread(task, method, budget, 5 - sample % 6 if method == "snapkv" else sample % 6)

    def together(task: str, method: str, budget: int | None, sample: int) -> float:
        return spread(task, method, budget, sample % 6)

    found = {}
    for name, score in (("together", together), ("apart", apart)):
        settings = {"model": OTHER, "tasks": ("qasper",), "methods": ("full", "snapkv"), "samples": 30}
        (found[name],) = compare_cells(load_run(write_published_run(tmp_path / f"{name}-0", score, **settings)), "CoKV")
        assert found[name].measured == pytest.approx(100 * (40 + 9 * 2.5 - 8) / (40 + 9 * 2.5)) and found[name].n == 30
        assert found[name].low < found[name].measured < found[name].high
    widths = {name: c.high - c.low for name, c in found.items()}
    assert widths["together"] < 0.75 * widths["apart"]


def test_one_sample_gives_no_interval(tmp_path):
    for model in (LLAMA, OTHER):
        folder = tmp_path / model.split("/")[0] / "x-0"
        run = write_published_run(folder, spread, model=model, tasks=("qasper",), methods=("full", "snapkv"), samples=1)
        assert all(c.low is None and c.high is None for c in compare_cells(load_run(run), "CoKV"))


def test_an_average_over_fewer_data_sets_stands_beside_nothing(tmp_path):
    run = load_run(write_published_run(tmp_path / "x-0", as_published, tasks=SIXTEEN[:-1]))
    averages = compare_averages(run)
    assert averages and {len(c.over) for c in averages} == {6}, "HeadKV's is over six question-answering sets"
    assert {c.published.paper for c in averages} == {"HeadKV"}


def test_the_published_ratio_of_averages_stands_beside_ours(tmp_path):
    run = write_published_run(tmp_path / "x-0", spread, methods=("full", "cokv"), kv_budgets=(128,))
    (ratio,) = [c for c in compare_averages(load_run(run), "CoKV") if c.published.method == "CoKV / FullKV"]
    assert ratio.relative and ratio.value == pytest.approx(97.29) and len(ratio.over) == 16
    assert ratio.measured == pytest.approx(100 * (40 + 9 - 8) / (40 + 9))


def test_a_budget_that_a_method_cannot_meet_has_no_number(tmp_path):
    def score(task: str, method: str, budget: int | None, sample: int) -> float | None:
        return None if method == "snapkv" else 30.0

    run = write_published_run(tmp_path / "x-0", score, methods=("full", "snapkv"))
    cell = only(compare_cells(load_run(run), "CoKV"), dataset="qasper", method="SnapKV")
    assert cell.measured is None and cell.difference is None and cell.why == "needs more slots"
    (average,) = [c for c in compare_averages(load_run(run), "CoKV") if c.published.method == "SnapKV"]
    assert average.measured is None and "no score in narrativeqa" in average.why
    shown = to_markdown(beside_papers(load_run(run), "CoKV")[1][1])
    assert "No number: SnapKV at 64: needs more slots." in shown
    other = load_run(write_published_run(tmp_path / "y-0", score, methods=("full", "snapkv"), model=OTHER))
    cell = only(compare_cells(other, "CoKV"), dataset="qasper", method="SnapKV")
    assert cell.measured is None and cell.value == pytest.approx(100 * 13.21 / 31.24), "in the unit that it is shown in"


def test_a_share_stands_beside_a_published_ratio(tmp_path):
    run = write_published_run(
        tmp_path / "x-0", spread, model="meta-llama/Llama-3.1-8B-Instruct", tasks=("lcc",), methods=("full", "snapkv"),
        kv_budgets=("20%",),
    )  # fmt: skip
    cell = only(compare_cells(load_run(run), "LU-KV"), method="SnapKV (uniform)", relative=False)
    assert cell.published.value == 66.52
    unknown = {d.field for d in cell.differences if d.there == NOT_STATED}
    assert {"chat", "max_length", "samples", "query_aware"} <= unknown


def test_an_ablation_of_this_project_is_no_papers_method(tmp_path):
    changes = {"about.variants": [{"method": "snapkv", "preset": "normalized", "ours": True, "changed": []}]}
    run = write_published_run(tmp_path / "x-0", as_published, changes=changes)
    assert {c.published.method for c in compare_cells(load_run(run), "CoKV")} == {"FullKV", "CoKV"}


# ---- what never stands beside published scores


GENERATED = {"benchmarks.ruler": {"prepared": False, "length": 4096}}
NEVER = [
    ({"benchmark": "longbench_mini"}, "its scores are no LongBench scores"),
    ({"benchmark": "ruler", "tasks": ("vt",), "changes": GENERATED}, "official generator prepared would"),
    ({"changes": {"data.longbench.templates.official": False}}, "not the official files byte for byte"),
    ({"benchmark": "needle", "tasks": ("needle_4000",)}, "own wording around the needle"),
]


@pytest.mark.parametrize(("settings", "why"), NEVER)
def test_own_wording_and_generated_text_never_stand_beside_published_scores(tmp_path, settings, why):
    folder = write_published_run(tmp_path / "x-0", lambda *_: 50.0, **settings)
    run = load_run(folder)
    assert compare_cells(run) == [] and compare_averages(run) == []
    sentences, tables = beside_papers(run)
    assert tables == [] and any(why in sentence for sentence in sentences)
    assert sentences[0] == "No score of this run stands beside a published one of any paper."


def test_prepared_ruler_data_stands_beside_published_scores(tmp_path):
    changes = {"benchmarks.ruler": {"prepared": True, "length": 4096, "max_new_tokens": None}, "data.ruler": {}}
    settings = {"benchmark": "ruler", "tasks": ("vt", "cwe"), "methods": ("full",), "changes": changes}
    run = write_published_run(tmp_path / "x-0", lambda *_: 99.2, model="meta-llama/Llama-3.1-8B-Instruct", **settings)
    cells = compare_cells(load_run(run))
    assert {c.published.dataset: c.difference for c in cells} == {"vt": 0, "cwe": pytest.approx(-0.4)}
    at_1024 = {"benchmarks.ruler": {"prepared": True, "length": 1024}}
    other = write_published_run(tmp_path / "y-0", lambda *_: 99.2, **{**settings, "changes": at_1024})
    sentences, tables = beside_papers(load_run(other))
    assert not tables and any("RULER-4096" in sentence for sentence in sentences)


def test_what_nobody_published_is_named_with_what_would_be(tmp_path):
    run = write_published_run(
        tmp_path / "x-0", lambda *_: 50.0, tasks=("qasper", "dureader"), methods=("full", "snapkv"), kv_budgets=(32,)
    )
    sentences, _ = beside_papers(load_run(run), "CoKV")
    text = " ".join(sentences)
    assert "No published values here: data sets dureader." in text
    assert "SnapKV at 32 stands beside nothing of CoKV; it is published at 64, 1024." in text
    assert re.search(r"data files are taken as the official ones", text)


def test_only_the_paper_that_is_asked_for(equal):
    run = load_run(equal)
    assert {c.published.paper for c in compare_cells(run, "cokv")} == {"CoKV"}
    assert {c.published.paper for c in compare_cells(run)} > {"CoKV", "HeadKV", "PyramidKV"}
    with pytest.raises(ReportError, match="did you mean CoKV"):
        beside_papers(run, "cokx")


# ---- the tables


def test_tables_name_every_differing_field_and_what_it_is_there(equal):
    sentences, tables = beside_papers(load_run(equal))
    averages, cells, fields = tables
    assert fields.name == FIELDS_TABLE and "48 of this run's 48 cells" in sentences[0]
    explained = {(row[0].text, row[1].text) for row in fields.rows}
    for row, data in zip(cells.rows, cells.data, strict=True):
        for field in row[3].text.partition(";")[0].split(", "):
            assert (data["paper"], field) in explained or field == "model", (data["paper"], field)
        assert data["difference"] == pytest.approx(data["here"] - data["published"])
    assert len(averages.rows) < len(cells.rows)
    assert any("CoKV test split = 85 % of each set" in note for note in fields.notes)
    for table in tables:
        assert to_markdown(table).count("|") > 10 and r"\begin{tabular" in to_latex(table)


def test_the_same_model_under_the_nearest_protocol_comes_first(equal):
    _, (averages, cells, _) = beside_papers(load_run(equal))
    for table in (averages, cells):
        assert table.blocks[0] == (0, "CoKV, Meta-Llama-3-8B-Instruct")
        relative = [row["relative"] for row in table.data]
        assert relative == sorted(relative)
        assert len({title for _, title in table.blocks}) == len(table.blocks), "a block is not torn"


def test_a_model_version_that_the_source_leaves_open_is_said(tmp_path):
    run = write_published_run(
        tmp_path / "x-0", lambda *_: 20.0, model="mistralai/Mistral-7B-Instruct-v0.2", tasks=("qasper",)
    )
    cells = [c for c in compare_cells(load_run(run), "PyramidKV") if c.published.model == "Mistral-7B-Instruct"]
    assert cells and not any(c.relative for c in cells)
    assert all("model details" in {d.field for d in c.differences} for c in cells)


GARBAGE = [
    {"benchmarks.longbench.protocol": {}},
    {"benchmarks.longbench.protocol.max_lengths": ["llama", 3, ["llama-3"]]},
    {"benchmarks.longbench.protocol.newline_stop": 5},
    {"benchmarks.longbench.protocol.max_new_tokens": [5, ["qasper"]]},
    {"benchmarks": []},
    {"methods": [3, {"method": "snapkv", "parameters": "x"}]},
    {"model": None},
    {"data.longbench.data": []},
    {"profiles": "x"},
    {"experiment": 3},
]


@pytest.mark.parametrize("changes", GARBAGE, ids=str)
def test_what_a_spec_does_not_say_is_not_known_and_never_equal(tmp_path, changes):
    run = load_run(write_published_run(tmp_path / "x-0", as_published, tasks=("qasper", "samsum"), changes=changes))
    assert len(compare_cells(run, "CoKV")) == 6
    beside_papers(run)
    if "model" in changes:
        unknown = {d.field for d in compare_cells(run, "CoKV")[0].differences if not d.known}
        assert {"dtype", "attention", "weights"} <= unknown
