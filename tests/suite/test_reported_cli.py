"""`cokv reported` and `cokv report RUN --against PAPER`: what users type works, and every mistake is one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import call, refused
from published_run import write_published_run

from longbench import presets
from reports.reported import published_values
from reports.reported import table as reported_table

DATA = os.environ.get("COKV_TEST_DATA")
official_files = pytest.mark.skipif(DATA is None, reason="COKV_TEST_DATA is not set: no official files here")


def test_a_papers_method_at_a_budget_is_listed_with_source_and_note():
    result = call("reported", "--paper", "CoKV", "--method", "CoKV", "--budget", "64")
    assert result.exit_code == 0, result.output
    assert "arXiv:2502.17501 Table 1" in result.stdout and "window 8" in result.stdout
    assert [line.split() for line in result.stdout.splitlines() if line.startswith("trec")] == [["trec", "71.76"]]
    assert result.stdout.strip().endswith("16 published values")


def test_everything_is_listed_without_filters():
    result = call("reported")
    assert result.exit_code == 0 and result.stdout.strip().endswith(f"{len(published_values())} published values")


def test_json_has_all_fields_and_our_names_beside_theirs():
    rows = json.loads(call("reported", "--budget", "20%", "--method", "kvzip", "--json").stdout)
    (row,) = rows
    assert row["budget"] == "ratio 0.8" and row["our_kv_budget"] == "20%" and row["our_methods"] == ["kvzip"]
    assert row.keys() >= {field.name for field in dataclasses.fields(reported_table.PublishedValue)}


def test_what_decides_the_numbers_is_listed_with_where_it_is_stated():
    text = call("reported", "--paper", "CoKV", "--method", "snapkv", "--budget", "64", "--protocol").stdout
    words = " ".join(text.split())
    assert "chat: never [nawei1010/CoKV@e76afad experiments/LongBench/model_inference/pred.py]" in words
    assert "any method: window_size: 8" in words and "HeadKV-R2: beta" not in words
    (row, *_) = json.loads(call("reported", "--paper", "snapkv", "--method", "snapkv", "--protocol", "--json").stdout)
    assert row["protocol"]["max_length"] == {"value": "not stated", "where": ""}
    assert row["protocol"]["window_size"]["value"] == 32


def test_an_unknown_value_names_what_there_is():
    assert "did you mean CoKV" in refused(call("reported", "--paper", "cokx"))
    assert "budget can be full, 64, 1024" in refused(call("reported", "--paper", "cokv", "--budget", "96"))


def test_check_counts_what_it_compared_and_ends_with_1_where_something_is_off(monkeypatch):
    result = call("reported", "--check")
    assert (
        result.exit_code == 0 and "3761 values; 254 printed averages" in result.stdout and "0 problems" in result.stdout
    )
    assert "leave out --paper" in refused(call("reported", "--check", "--paper", "cokv"))
    rows = published_values()
    off = (dataclasses.replace(rows[0], value=rows[0].value + 5), *rows[1:])
    monkeypatch.setattr("reports.reported.check.published_values", lambda: off)
    result = call("reported", "--check")
    assert result.exit_code == 1 and rows[0].method in result.stdout and "problems" in result.stdout
    problems = json.loads(call("reported", "--check", "--json").stdout)["problems"]
    assert len(problems) >= 1


@pytest.fixture
def run(tmp_path) -> Path:
    return write_published_run(tmp_path / "runs" / "published-0", lambda *_: 30.0, tasks=("qasper", "lcc"))


def test_a_run_is_printed_beside_one_paper_or_all(run):
    result = call("report", run, "--against", "cokv")
    assert result.exit_code == 0, result.output
    assert "CoKV, Meta-Llama-3-8B-Instruct" in result.stdout and "HeadKV" not in result.stdout
    assert "+16.79" in result.stdout and "samples: here 3 of 200; there 170 of 200" in result.stdout
    assert "HeadKV" in call("report", run, "--against", "all").stdout
    assert not (run / "report").exists(), "only prints"


def test_a_run_against_an_unknown_paper_is_refused(run):
    message = refused(call("report", run, "--against", "cokx"))
    assert message.startswith("cokv: --against cokx") and "did you mean CoKV" in message


def test_a_run_of_generated_samples_says_why_nothing_stands_beside(experiment_file, tmp_path):
    assert call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs").exit_code == 0
    result = call("report", "--runs", tmp_path / "runs", "--against", "all")
    assert result.exit_code == 0 and "No score of this run stands beside a published one" in result.stdout
    assert "RULER's samples are generated here" in result.stdout


EXPERIMENT = """
name = "beside"
methods = ["full", "snapkv"]
kv_budgets = [64]

[model]
name = "{model}"

[method_defaults]
window_size = 8

[longbench]
data = "{data}/longbench"
templates = "{data}/longbench_config"
tasks = ["multi_news"]
samples = 2
partial = true
protocol = "cokv"
"""


@official_files
def test_a_run_on_official_files_stands_beside_the_papers(tmp_path, random_model, monkeypatch):
    """From the experiment file to the difference: the fields are those that the run really wrote."""
    short = dataclasses.replace(presets.PRESETS["cokv"], max_length=300)
    monkeypatch.setitem(presets.PRESETS, "cokv", short)
    model = shutil.copytree(random_model, tmp_path / "Meta-Llama-3-8B-Instruct")
    path = tmp_path / "beside.toml"
    path.write_text(EXPERIMENT.format(model=model, data=DATA), encoding="utf-8")
    assert call("reproduce", "--experiment", path, "--runs", tmp_path / "runs").exit_code == 0
    result = call("report", "--runs", tmp_path / "runs", "--against", "cokv")
    assert result.exit_code == 0, result.output
    assert "2 of this run's 2 cells stand beside 2 published values (2 of the same model, 0 of others)" in result.stdout
    assert "Fields that differ: " in result.stdout
    text = " ".join(result.stdout.split())
    for field in (
        "max_length: here 300; there 8000",
        "dtype: here float32; there bfloat16",
        "of 200; there 170 of 200",
    ):
        assert field in text, text
    assert "window_size" not in text and "chat" not in text, "as in CoKV's own run"
