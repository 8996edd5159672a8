"""The generated LongBench stand-ins through the suite: every stage, both ways to ask, judged again alike."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from suite.cli.main import app
from suite.errors import SuiteError
from suite.spec import read_experiment

EXPERIMENT = """
name = "mini"
methods = ["full", "snapkv", "cokv"]
kv_budgets = [16]
seeds = [0, 1]

[model]
name = "{model}"

[method_defaults]
window_size = 8

[protocol]
query_aware = {aware}

[longbench_mini]
length = 200
samples = 1
tasks = ["qasper", "samsum", "lsht", "repobench-p"]

[game]
prompts = 1
slice_sizes = [2]
coalitions_per_size = 3
removal_samples = 2
"""


def call(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mini.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("aware", ["true", "false"])
def test_stand_ins_run_whole_and_are_judged_again_alike(tmp_path, random_model, aware):
    path = written(tmp_path, EXPERIMENT.format(model=random_model, aware=aware))
    result = call("reproduce", "--experiment", path, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").glob("*-*")
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(records) == 4 * 2 * 3  # tasks x seeds x (full, snapkv, cokv)
    assert {r["benchmark"] for r in records} == {"longbench_mini"}
    assert all(r["prompt_tokens"] <= 200 for r in records)
    assert all(r["query_aware"] == (aware == "true") for r in records)
    assert all(any("generated stand-in" in note for note in r["notes"]) for r in records)
    spec = json.loads((folder / "spec.json").read_text())
    assert not spec["data"]["longbench_mini"]["official"] and spec["data"]["longbench_mini"]["version"] == 1
    again = call("score", folder)
    judged = sum(record["score"] is not None for record in records)
    assert 16 <= judged <= 24, "random weights may leave the game of a task, and so CoKV, without a valid profile"
    assert all("no valid profile" in r["unsupported"] for r in records if r["score"] is None)
    assert again.exit_code == 0 and f"{judged} predictions judged again, {judged} scores the same" in again.stdout
    assert "longbench_mini" in (folder / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"lsht"', '"lsth"', "did you mean lsht"),
        ("length = 200", "length = 8", "window_size 8 covers prompts of 8 tokens"),
        ('"samsum"', '"qasper"', "each named once"),
        ("[longbench_mini]", '[longbench]\ntasks = ["trec"]\ntemplates = "t"\n[longbench_mini]', "the same tasks"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, message):
    text = EXPERIMENT.format(model="embedded", aware="true")
    assert old in text
    with pytest.raises(SuiteError, match=message):
        read_experiment(written(tmp_path, text.replace(old, new)))


def test_prompts_longer_than_the_model_are_refused_before_any_work(tmp_path, random_model):
    text = EXPERIMENT.format(model=random_model, aware="true").replace("length = 200", "length = 2000")
    result = call("reproduce", "--experiment", written(tmp_path, text), "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and "[longbench_mini] length is 2000, the model has 1024 positions" in result.stderr


@pytest.mark.parametrize(("benchmark", "rows"), [("ruler", 26), ("longbench", 22), ("longbench_mini", 21)])
def test_tasks_can_be_limited_to_a_benchmark(benchmark, rows):
    result = call("tasks", "--benchmark", benchmark)
    assert result.exit_code == 0
    assert sum(line.startswith(f"│ {benchmark} ") for line in result.stdout.splitlines()) == rows
