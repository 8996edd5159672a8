"""The command line: what users type works, and every mistake is one line on stderr with exit code 2."""

import errno
import json
import re
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from suite.cli.main import app
from suite.run.folder import RunFolder
from suite.run.plan import in_words

runner = CliRunner()


def call(*arguments: object):
    return runner.invoke(app, [str(a) for a in arguments])


def refused(result) -> str:
    assert result.exit_code == 2, result.output
    *progress, said = result.stderr.strip().splitlines()
    assert said.startswith("cokv: ") and "Traceback" not in result.output
    assert not any(line.startswith("cokv: ") or "left" not in line for line in progress), result.stderr
    return said


def test_reproduce_ends_with_the_reports_path_and_again_is_a_no_op(experiment_file, tmp_path):
    for _ in range(2):
        result = call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs")
        assert result.exit_code == 0, result.output
        folder = result.stdout.strip().splitlines()[-1]
        assert folder.endswith("/report") and "SnapKV" in result.stdout
    for name in ("report.md", "table.tex", "scores_ruler.png", "head_scores.png"):
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
    said = next(line for line in result.stdout.splitlines() if line.startswith("about"))
    assert re.fullmatch(r"about \d+ seconds? at most on this machine", said) and " 0 " not in said
    assert [in_words(s) for s in (0.01, 1.6, 119, 150, 7100, 9000)] == [
        "1 second", "2 seconds", "119 seconds", "2 minutes", "118 minutes", "2.5 hours",
    ]  # fmt: skip


def test_methods_and_tasks_are_listed():
    assert "2502.17501" in call("methods").stdout
    assert "niah_multikey_1" in call("tasks").stdout


def test_an_unknown_method_is_refused(experiment_file, tmp_path):
    experiment_file.write_text(experiment_file.read_text().replace('"snapkv"', '"snapvk"'))
    assert "did you mean snapkv" in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path))


def test_a_missing_experiment_is_refused(tmp_path):
    assert "none.toml" in refused(call("reproduce", "--experiment", tmp_path / "none.toml"))


def test_a_prompt_longer_than_the_model_is_refused(experiment_file, tmp_path):
    experiment_file.write_text(experiment_file.read_text().replace("length = 160", "length = 1200"))
    said = refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert "1024 positions" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("prompt_tokens = 64", "prompt_tokens = 1022", "1024 positions"),
        ("slice_sizes = [2]", "slice_sizes = [5]", "4 players"),
        ("slice_sizes = [2]\ncoalitions_per_size = 3", "slice_sizes = [1]\ncoalitions_per_size = 1", "in no coalition"),
        ("[model]", '[model]\ndevice = "meta"', "unknown device"),
        ("[model]", '[model]\nrevision = "abc"', "leave `revision` out"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_any_work(experiment_file, tmp_path, old, new, said):
    experiment_file.write_text(experiment_file.read_text().replace(old, new))
    assert said in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(experiment_file, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        whole = RunFolder.write

        def full_at_metrics(self, name, value):
            if name == "metrics.json":
                raise OSError(errno.ENOSPC, "No space left on device", str(self.path / name))
            whole(self, name, value)

        broken.setattr(RunFolder, "write", full_at_metrics)
        said = refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
        assert "No space left" in said and "metrics.json" in said
    assert call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs").exit_code == 0


def test_a_ledger_of_another_game_is_named(experiment_file, tmp_path):
    assert call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs").exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "done.json").unlink()
    with sqlite3.connect(folder / "game.sqlite") as connection:
        connection.execute("UPDATE game SET identity = replace(identity, '\"window_size\":8', '\"window_size\":4')")
    said = refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert "game.sqlite" in said and "window_size is 4" in said
    (folder / "game.sqlite").write_bytes(b"nothing of the kind" * 99)
    assert "game.sqlite" in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))


@pytest.mark.parametrize("name", ["predictions.jsonl"])
def test_a_line_that_is_no_record_is_named(experiment_file, tmp_path, name):
    assert call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs").exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "done.json").unlink()
    file = folder / name
    file.write_text(file.read_text() + '{"other": 1}\n')
    before = file.read_bytes()
    said = refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert f"{name} line" in said and file.read_bytes() == before


def test_runs_that_is_a_file_is_refused(experiment_file, tmp_path):
    (tmp_path / "runs").write_text("mine")
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
    (folder,) = (tmp_path / "runs").iterdir()
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    snapkv = [r for r in records if r["method"] == "snapkv"]
    assert snapkv and all(r["score"] is None and "window" in r["infeasible"] for r in snapkv)
    left_out = {row["method"]: row["why"] for row in json.loads((folder / "measurements.json").read_text())["left_out"]}
    assert "window" in left_out["snapkv"] and "streamingllm" not in left_out, "what evicts is timed too"
    assert "No row for SnapKV" in (folder / "report" / "decode.md").read_text()


def test_a_model_that_is_not_there_is_refused(experiment_file, tmp_path, random_model):
    experiment_file.write_text(experiment_file.read_text().replace(str(random_model), "no/such-model"))
    assert "revision" in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path))


@pytest.mark.parametrize("name", ["spec.json", "stability.json", "metrics.json"])
def test_a_corrupted_run_folder_is_refused(experiment_file, tmp_path, name):
    assert call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs").exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / name).write_text('{"half":')
    assert name in refused(call("report", folder))


def test_reporting_what_is_no_run_is_refused(tmp_path):
    assert "run folder" in refused(call("report", tmp_path / "nothing"))
