"""Data that the official generator prepared, through the suite."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from suite.cli.main import app

OFFICIAL = os.environ.get("COKV_TEST_DATA")


@pytest.fixture
def data(tmp_path) -> Path:
    """Six prepared samples of vt at 512 tokens, in the newer layout; each names its number."""
    rows = [
        {"index": i, "input": f"VAR A{i} = {i}. " * 6 + "Find it.", "outputs": [f"A{i}"], "length": 90}
        | {"answer_prefix": " Answer: it is"}
        for i in range(6)
    ]
    path = tmp_path / "prepared" / "512" / "vt" / "validation.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "prepared"


def write(experiment_file: Path, data: Path, samples: int = 4, **more: str) -> Path:
    text = experiment_file.read_text().replace('preset = "mini"\nlength = 160\nsamples = 2', "@")
    text = text.replace("@", f'data = "{data}"\nlength = {more.get("length", "512")}\nsamples = {samples}')
    text = text.replace('["niah_single_1", "vt"]', more.get("tasks", '["vt"]')).replace(
        "[measure]", more.get("add", "") + "[measure]"
    )
    experiment_file.write_text(text)
    return experiment_file


def call(path: Path, runs: Path):
    return CliRunner().invoke(app, ["reproduce", "--experiment", str(path), "--runs", str(runs)])


def test_prepared_samples_run_once_whatever_the_seeds_and_the_last_ones_are_the_games(experiment_file, data, tmp_path):
    result = call(write(experiment_file, data), tmp_path / "runs")
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").glob("*-*")
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert {r["references"][0] for r in records} == {"A0", "A1", "A2", "A3"} and {r["seed"] for r in records} == {0}
    spec = json.loads((folder / "spec.json").read_text())
    assert list(spec["data"]["ruler"]["sources"]) == ["data/vt"]
    assert any("official generator" in note for note in records[0]["notes"])
    result = CliRunner().invoke(app, ["score", str(folder)])
    assert result.exit_code == 0 and "scores the same" in result.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"samples": 6}, "6 test samples and 1 validation prompts asked"),
        ({"length": "4096"}, "0 files of vt at length 4096; got 512/vt/validation.jsonl"),
        ({"tasks": '["cwe"]'}, "0 files of cwe at length 512; got none"),
        ({"add": "[protocol]\nquery_aware = false\n\n"}, "where its questions begin"),
        ({"add": '[ruler.questions]\nqa_1 = "x.json"\n\n'}, "`data` is prepared already"),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_model_is_loaded(
    experiment_file, data, tmp_path, monkeypatch, more, message
):
    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("suite.experiment.load_model", never)
    result = call(write(experiment_file, data, **more), tmp_path / "runs")
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(OFFICIAL is None, reason="COKV_TEST_DATA is not set: no official files here")
def test_official_prompts_that_pass_the_models_positions_are_refused(experiment_file, tmp_path):
    text = write(
        experiment_file, Path(str(OFFICIAL)) / "ruler", 2, tasks='["niah_multikey_3"]', length="4096"
    ).read_text()
    experiment_file.write_text(text.split("[game]")[0].replace(', "cokv"', ""))
    result = call(experiment_file, tmp_path / "runs")
    assert result.exit_code == 2 and "1024 positions" in result.stderr
