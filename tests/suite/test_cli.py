"""The command line: what users type works, and every mistake is one line on stderr with exit code 2."""

import json
import re
import sqlite3
from pathlib import Path

import pytest
from command_line import call, refused
from full_disk import full_disk

from suite.run.plan import in_words


def test_reproduce_ends_with_the_reports_path_and_again_is_a_no_op(experiment_file, tmp_path):
    for _ in range(2):
        result = call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs")
        assert result.exit_code == 0, result.output
        folder = result.stdout.strip().splitlines()[-1]
        assert folder.endswith("/report") and "SnapKV" in result.stdout
    for name in ("report.md", "tables/tables.tex", "scores_ruler.png", "head_scores.png"):
        assert (Path(folder) / name).is_file()


def test_the_newest_run_is_reported_when_none_is_named(experiment_file, tmp_path):
    assert "cokv reproduce" in refused(call("report", "--runs", tmp_path / "runs"))
    assert call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs").exit_code == 0
    assert call("report", "--runs", tmp_path / "runs").stdout.strip().endswith("/report")


def test_dry_run_writes_nothing(experiment_file, tmp_path):
    result = call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs", "--dry-run")
    assert result.exit_code == 0 and "prefill tokens" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_a_short_plan_counts_seconds(experiment_file, tmp_path):
    result = call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs", "--dry-run")
    estimate = next(line for line in result.stdout.splitlines() if line.startswith("about"))
    assert re.fullmatch(r"about \d+ seconds? at most on this machine", estimate) and " 0 " not in estimate
    assert [in_words(s) for s in (0.01, 1.6, 119, 150, 7100, 9000)] == [
        "1 second", "2 seconds", "119 seconds", "2 minutes", "118 minutes", "2.5 hours",
    ]  # fmt: skip


def test_methods_and_tasks_are_listed():
    assert "CoKV" in call("methods").stdout and "2502.17501" in call("methods", "--long").stdout
    assert "niah_multikey_1" in call("tasks").stdout


def test_an_unknown_method_is_refused(experiment_file, tmp_path):
    experiment_file.write_text(experiment_file.read_text().replace('"snapkv"', '"snapvk"'))
    assert "did you mean snapkv" in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path))


def test_a_missing_experiment_is_refused(tmp_path):
    assert "none.toml" in refused(call("reproduce", "--experiment", tmp_path / "none.toml"))


def test_a_prompt_longer_than_the_model_is_refused(experiment_file, tmp_path):
    experiment_file.write_text(experiment_file.read_text().replace("length = 160", "length = 1200"))
    message = refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert "1024 positions" in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prompt_tokens = 64", "prompt_tokens = 1022", "1024 positions"),
        ("slice_sizes = [2]", "slice_sizes = [5]", "4 players"),
        ("slice_sizes = [2]\ncoalitions_per_size = 3", "slice_sizes = [1]\ncoalitions_per_size = 1", "in no coalition"),
        ("[model]", '[model]\ndevice = "meta"', "unknown device"),
        ("[model]", '[model]\nrevision = "abc"', "leave `revision` out"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_any_work(experiment_file, tmp_path, old, new, message):
    experiment_file.write_text(experiment_file.read_text().replace(old, new))
    assert message in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("pattern", [".metrics.json.part", "*.md", "*.png", "*.pdf", "*.tex", "*.html"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(experiment_file, tmp_path, pattern):
    command = ("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs")
    with full_disk(pattern):
        assert "No space left on device; free some space" in refused(call(*command))
    (folder,) = (tmp_path / "runs").glob("*-*")
    predictions = (folder / "predictions.jsonl").read_bytes()
    assert call(*command).exit_code == 0
    assert (folder / "predictions.jsonl").read_bytes() == predictions
    assert (folder / "report" / "report.md").is_file() and not [*folder.glob(".report-*"), *folder.glob("*.part")]


def test_a_ledger_of_another_game_is_named(experiment_file, tmp_path):
    assert call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs").exit_code == 0
    (folder,) = (tmp_path / "runs").glob("*-*")
    (folder / "done.json").unlink()
    ledger = next((tmp_path / "runs" / "games").glob("vt-*")) / "game.sqlite"
    with sqlite3.connect(ledger) as connection:
        connection.execute("UPDATE game SET identity = replace(identity, '\"window_size\":8', '\"window_size\":4')")
    message = refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert "game.sqlite" in message and "window_size is 4" in message
    ledger.write_bytes(b"nothing of the kind" * 99)
    assert "game.sqlite" in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))


def test_a_line_that_is_no_record_is_named(experiment_file, tmp_path):
    assert call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs").exit_code == 0
    (folder,) = (tmp_path / "runs").glob("*-*")
    (folder / "done.json").unlink()
    file = folder / "predictions.jsonl"
    file.write_text(file.read_text() + '{"other": 1}\n')
    before = file.read_bytes()
    message = refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert "predictions.jsonl line" in message and file.read_bytes() == before


def test_runs_that_is_a_file_is_refused(experiment_file, tmp_path):
    (tmp_path / "runs").write_text("a file of the user's")
    assert "--runs" in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))


def test_a_run_where_no_method_meets_its_budget_is_still_reported(experiment_file, tmp_path):
    text = experiment_file.read_text().replace('["full", "streamingllm", "snapkv", "cokv"]', '["snapkv"]')
    experiment_file.write_text(text.replace("kv_budgets = [16, 32]", "kv_budgets = [10]"))
    result = call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output


def test_a_budget_below_the_window_is_infeasible_not_given_more(experiment_file, tmp_path):
    text = (
        experiment_file.read_text()
        .replace("kv_budgets = [16, 32]", "kv_budgets = [10]")
        .replace("kv_budget = 16", "kv_budget = 10")
    )
    experiment_file.write_text(text)
    result = call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").glob("*-*")
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    snapkv = [r for r in records if r["method"] == "snapkv"]
    assert snapkv and all(r["score"] is None and "window" in r["infeasible"] for r in snapkv)
    left_out = {row["method"]: row["why"] for row in json.loads((folder / "measurements.json").read_text())["left_out"]}
    assert "window" in left_out["snapkv"] and "streamingllm" not in left_out, "what evicts is timed too"
    assert "No row for SnapKV" in (folder / "report" / "tables" / "decode.md").read_text()


def test_a_model_that_does_not_exist_is_refused(experiment_file, tmp_path, random_model):
    experiment_file.write_text(experiment_file.read_text().replace(str(random_model), "no/such-model"))
    assert "revision" in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path))


def test_the_report_of_an_unfinished_run_is_replaced_when_the_run_ends(experiment_file, tmp_path):
    command = ("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs")
    assert call(*command).exit_code == 0
    (folder,) = (tmp_path / "runs").glob("*-*")
    (folder / "done.json").unlink()
    assert call("report", folder, "--unfinished").exit_code == 0
    assert "not finished" in (folder / "report" / "report.md").read_text()
    assert call(*command).exit_code == 0
    assert "not finished" not in (folder / "report" / "report.md").read_text()


def test_reporting_what_is_no_run_is_refused(tmp_path):
    assert "run folder" in refused(call("report", tmp_path / "nothing"))
