"""The published table holds together, is found in its words and ours, and says what decides its numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cokv.methods.registry import METHODS, get_method
from longbench.presets import PRESETS
from longbench.tasks import TASKS
from reports import ReportError
from reports.kv_budget import percent_of
from reports.reported import published_values
from reports.reported.check import check_reported, exceptions
from reports.reported.names import is_comparable, kv_budget_of, methods, model_name, models, same_models
from reports.reported.select import select
from reports.reported.show import ACROSS, reported_tables
from reports.reported.sources import FIELDS, NOT_STATED, source_of, sources
from ruler.tasks import TASKS as RULER

ROWS = published_values()
COKV_64 = select({"paper": "CoKV", "method": "CoKV", "budget": "64"})


# ---- the table and its exceptions


def test_the_table_holds_together():
    checked = check_reported()
    assert checked.problems == ()
    assert checked.values == 3761 and checked.averages > 250 and checked.row_means == 11


def changed(place: int, **fields) -> list:
    return [replace(row, **fields) if at == place else row for at, row in enumerate(ROWS)]


def place_of(**fields) -> int:
    return next(at for at, row in enumerate(ROWS) if all(getattr(row, name) == v for name, v in fields.items()))


@pytest.mark.parametrize(
    ("where", "fields", "said"),
    [
        ({"paper": "HeadKV", "dataset": "qasper", "budget": "128"}, {"value": 99.0}, "is not the mean of its values"),
        ({"paper": "CoKV", "method": "CoKV", "budget": "64"}, {"value": 21.0}, "the row's mean is 38.74"),
        ({"paper": "SnapKV", "dataset": "lcc"}, {"value": 101.0}, "101 is outside 0..100"),
        ({"paper": "SnapKV", "dataset": "lcc"}, {"dataset": "qasper"}, "2 values of one source and note"),
        ({"paper": "SnapKV", "dataset": "lcc"}, {"dataset": "qasper", "note": "x"}, "no exception says why"),
    ],
)
def test_what_is_off_is_said_with_its_row(where, fields, said):
    (problem,) = [p for p in check_reported(changed(place_of(**where), **fields)).problems if said in p]
    assert where["paper"] in problem


def test_an_exception_that_does_not_hold_is_a_failure():
    (entry,) = [e for e in exceptions()["average"] if e["method"] == "SnapKV" and e["printed"] == 34.51]
    at = place_of(paper="PyramidKV", method="SnapKV", budget="96", dataset="average", model=entry["model"])
    assert any("which the table does not have" in p for p in check_reported(changed(at, value=34.52)).problems)
    wrong = {**exceptions(), "average": [{**e, "mean": 1.0} if e is entry else e for e in exceptions()["average"]]}
    assert any("the exception states the mean 1" in p for p in check_reported(known=wrong).problems)


def test_an_exception_that_is_not_needed_is_a_failure():
    fine = {"paper": "HeadKV", "model": "Meta-Llama-3-8B-Instruct", "benchmark": "LongBench", "method": "SnapKV"}
    row = ROWS[place_of(**fine, budget="64", dataset="average")]
    extra = {**fine, "budget": "64", "printed": row.value, "mean": row.value, "why": "no reason"}
    known = {**exceptions(), "average": [*exceptions()["average"], extra]}
    assert any("listed as an exception, but the printed average" in p for p in check_reported(known=known).problems)
    known = {**exceptions(), "repeated": [*exceptions()["repeated"], {**fine, "budget": "64", "why": "no reason"}]}
    assert any("listed as repeated, but it is not" in p for p in check_reported(known=known).problems)
    known = {**exceptions(), "fraction": [*exceptions()["fraction"], {**fine, "budget": "9", "dataset": "qasper"}]}
    assert any("listed as a fraction" in p for p in check_reported(known=known).problems)


def test_each_exception_says_why():
    assert all(e["why"] for kind in ("average", "repeated", "fraction") for e in exceptions()[kind])


def test_a_source_names_where_it_can_be_looked_up_and_nothing_of_a_workplace():
    for row in ROWS:
        assert re.search(r"arXiv|github|https://", row.source), row
        assert not re.search(r"/work|/tmp|/root|/home", row.source + row.note), row


# ---- names


def test_names_here_are_those_of_the_registry():
    for word, method in methods().items():
        assert set(method.ours) <= METHODS.keys(), word
    assert {row.method for row in ROWS} == methods().keys()


def test_every_published_value_of_a_method_here_has_a_budget_that_a_run_can_have():
    odd = {row.budget for row in ROWS if methods()[row.method].ours and not is_comparable(row.budget)}
    assert odd == {"?"}
    assert kv_budget_of("full") is None and kv_budget_of("128") == 128 and percent_of(kv_budget_of("ratio 0.80")) == 20


@pytest.mark.parametrize("word", ["Ada-SnapKV", "adakv", "AdaKV", "ADAKV", "ada_snapkv"])
def test_a_method_goes_by_the_sources_word_and_by_ours(word):
    found = {row.method for row in select({"method": word})}
    assert "Ada-SnapKV" in found and "SnapKV" not in found


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.ours])
def test_a_method_is_found_by_its_title_wherever_by_its_name(name):
    def rows(word: str) -> list:
        try:
            return select({"method": word})
        except ReportError:
            return []

    if rows(name):
        assert rows(METHODS[name].title) == rows(name)


@pytest.mark.parametrize(
    ("path", "name", "stored"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "Meta-Llama-3-8B-Instruct", ""),
        ("models/Meta-Llama-3-8B-Instruct/", "Meta-Llama-3-8B-Instruct", ""),
        ("Meta-Llama-3-8B-Instruct-Q4_K_M.gguf", "Meta-Llama-3-8B-Instruct", "Q4_K_M"),
        ("Meta-Llama-3-8B-Instruct.gguf", "Meta-Llama-3-8B-Instruct", "GGUF"),
        ("TheBloke/Mistral-7B-Instruct-v0.2-GPTQ", "Mistral-7B-Instruct-v0.2", "GPTQ"),
    ],
)
def test_a_models_name_and_how_its_weights_are_stored(path, name, stored):
    assert model_name(path) == (name, stored)


def test_other_models_of_similar_names_are_not_the_published_one():
    assert same_models("gradientai/Llama-3-8B-Instruct-Gradient-1048k") == ("GradientAI/Llama3 (8B)",)
    assert "Meta-Llama-3-8B-Instruct" in same_models("NousResearch/Meta-Llama-3-8B-Instruct")
    assert "Meta-Llama-3-8B-Instruct" not in same_models("meta-llama/Llama-3.1-8B-Instruct")
    assert models()["Mistral-7B-Instruct"].version, "the table does not say which version"


# ---- selection


def test_filters_narrow_together():
    assert len(COKV_64) == 16 and {row.dataset for row in COKV_64} <= TASKS.keys()
    assert [row.value for row in select({"paper": "cokv", "method": "cokv", "budget": "64", "dataset": "trec"})] == [
        71.76
    ]


def test_a_share_here_is_the_ratio_that_the_source_removes():
    assert {row.budget for row in select({"budget": "20%"})} == {"ratio 0.8", "ratio 0.80"}


def test_a_paper_and_a_benchmark_name_their_parts_too():
    assert {row.paper for row in select({"paper": "AdaKV"})} == {"AdaKV", "AdaKV (GQA)"}
    assert "RULER-4096" in {row.benchmark for row in select({"benchmark": "ruler"})}
    assert {row.benchmark for row in select({"benchmark": "RULER-4096"})} == {"RULER-4096"}


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"method": "adkv"}, "--method adkv: nothing published has it; closest: AdaKV"),
        ({"paper": "cokx"}, "did you mean CoKV?"),
        ({"model": "gpt-5"}, "--model gpt-5"),
        ({"paper": "CoKV", "budget": "256"}, "budget can be full, 64, 1024"),
        ({"paper": ""}, "--paper : nothing published has it"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(filters, said):
    with pytest.raises(ReportError, match=re.escape(said)):
        select(filters)


def test_tables_show_every_value_once_with_its_source():
    shown, cells = [], 0
    for table in reported_tables(ROWS):
        assert len(table.columns) <= ACROSS + 1 and table.notes
        cells += sum(entry.text != "—" for row in table.rows for entry in row[1:])
        shown += table.notes
    assert cells == len(ROWS)
    assert all(any(row.source in note for note in shown) for row in ROWS)


# ---- protocols: presets and parameters against their sources


def test_every_published_value_has_one_source_that_says_something_of_every_field():
    for source in sources():
        assert set(FIELDS) <= source.facts.keys() <= {*FIELDS, "samples"}, source.paper
    for row in ROWS:
        assert [source for source in sources() if source.covers(row)] == [source_of(row)]


def test_a_stated_fact_says_where_and_only_that():
    for source in sources():
        for facts in (source.facts, *source.methods.values()):
            for name, fact in facts.items():
                assert fact.stated == bool(fact.where), (source.paper, name)


def test_facts_of_a_model_are_of_models_that_the_source_has():
    for source in sources():
        published = {row.model for row in ROWS if source.covers(row)}
        for name, fact in source.facts.items():
            if isinstance(fact.value, dict):
                assert fact.value.keys() <= published, (source.paper, name)
        words = {row.method for row in ROWS if source.covers(row)}
        assert source.methods.keys() <= {*words, "any"}, source.paper


@pytest.mark.parametrize("source", [s for s in sources() if s.protocol], ids=lambda s: f"{s.paper} {s.note}".strip())
def test_presets_of_longbench_are_what_their_sources_state(source):
    preset = PRESETS[source.protocol]
    for row in {(r.model, r.method): r for r in ROWS if source.covers(r) and r.benchmark == "LongBench"}.values():
        for field in ("chat", "truncation", "min_new_tokens", "eos", "query_aware", "first_token"):
            fact = source.fact(field, row.model, row.method)
            assert not fact.stated or getattr(preset, field) == fact.value, (row.model, field)
        stops = source.fact("newline_stop", row.model, row.method)
        assert not stops.stated or list(preset.newline_stop) == stops.value
        length = source.fact("max_length", row.model, row.method)
        assert not length.stated or preset.length_for(row.model) == length.value, row.model
        tokens = source.fact("new_tokens", row.model, row.method)
        assert not tokens.stated or (tokens.value == "official") == (
            preset.max_new_tokens is None and preset.extra_new_tokens == 0
        )


def test_every_preset_of_a_paper_with_published_values_is_tested():
    assert {s.protocol for s in sources() if s.protocol} == {"cokv", "pyramidkv", "kvcache-factory", "headkv", "adakv"}


# Which source is a method's own: its parameters here are those that this one states.
OWN = {
    "pyramidkv": ("PyramidKV", "PyramidKV", "official"),
    "adakv": ("AdaKV (GQA)", "Ada-SnapKV", "official"),
    "headkv_r": ("HeadKV", "HeadKV-R", "official"),
    "headkv_r2": ("HeadKV", "HeadKV-R2", "official"),
    "cokv": ("CoKV", "CoKV", "official"),
    "streamingllm": ("PyramidKV", "StreamingLLM", "normalized"),
}
SEARCHED = {"alpha", "beta"}  # per row or data set there, one value here
ELSEWHERE = {"rounding", "profile"}  # of the preset and of the run, no parameters


@pytest.mark.parametrize("name", OWN)
def test_parameters_of_a_method_are_what_its_source_states(name):
    paper, word, preset = OWN[name]
    (source,) = [s for s in sources() if s.paper == paper and (not s.benchmarks or "LongBench" in s.benchmarks)]
    method, compared = get_method(name, preset), 0
    for parameter, fact in source.parameters(word).items():
        if parameter in ELSEWHERE or parameter not in method.parameters or not fact.stated:
            continue
        if isinstance(fact.value, str) and fact.value.startswith("searched"):
            assert parameter in SEARCHED
            continue
        assert method.parameters[parameter] == fact.value, parameter
        compared += 1
    assert compared >= 1


def test_snapkv_as_its_paper_ran_longbench_is_the_default_here():
    (source,) = [s for s in sources() if s.paper == "SnapKV"]
    stated = {name: fact.value for name, fact in source.parameters("SnapKV").items()}
    assert stated == {"window_size": 32, "kernel_size": 7, "pooling": "max"}
    assert stated.items() <= get_method("snapkv").parameters.items()


def test_not_stated_is_never_a_guess():
    assert source_of(next(r for r in ROWS if r.paper == "LU-KV")).facts["chat"].value == NOT_STATED


def test_published_data_sets_are_those_of_the_benchmarks():
    longbench = {row.dataset for row in ROWS if row.benchmark == "LongBench"} - {"average", "average_ratio_to_full"}
    assert longbench <= TASKS.keys() and len(longbench) == 16
    assert {r.dataset for r in ROWS if r.benchmark.startswith("RULER")} - {"average"} == RULER["official"].keys()
