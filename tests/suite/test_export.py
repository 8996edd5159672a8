"""A run as a Parquet file: what is read back is what the run holds, row by row."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
from command_line import call, refused

from suite.cli.export import COLUMNS
from suite.experiment import run_experiment
from suite.spec.reading import read_experiment

EXPERIMENT = """
name = "exported"
methods = ["full", "snapkv", "duoattention", "fastgen"]
kv_budgets = [64, "20%", "90%"]

[model]
name = "embedded"

[method_defaults]
window_size = 8

[ruler]
preset = "mini"
length = 160
samples = 2
tasks = ["niah_single_1"]

[longbench_mini]
tasks = ["trec"]
length = 400
samples = 1
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    path = folder / "exported.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return run_experiment(read_experiment(path), folder / "runs").path


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def as_record(row: dict) -> dict:
    """A row as the record it was made from, without what is null in both."""
    record = {name: value for name, value in row.items() if value is not None and name not in ("run", "model", "other")}
    record |= {name: json.loads(record[name]) for name in ("facts", "groups") if name in record}
    if "kv_budget" in record and not record["kv_budget"].endswith("%"):
        record["kv_budget"] = int(record["kv_budget"])
    return record | json.loads(row["other"] or "{}")


def test_what_datasets_reads_back_is_the_run_row_by_row(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    result = call("export", run, "--out", tmp_path / "run.parquet")
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'run.parquet'}: {len(records(run))} records\n"
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "run.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    expected = [{name: value for name, value in record.items() if value is not None} for record in records(run)]
    assert [as_record(row) for row in table] == expected
    assert set(table["run"]) == {run.name} and set(table["model"]) == {"embedded"}
    assert {"20%", "90%", "64", None} == set(table["kv_budget"])
    assert any(row["infeasible"] for row in table) and any(row["facts"] for row in table), "both occur here"


def test_columns_types_units_and_the_spec_are_the_same_for_every_run(run):
    assert call("export", run).exit_code == 0
    schema = pyarrow.parquet.read_schema(run / "predictions.parquet")
    assert schema.names == list(COLUMNS)
    assert schema.field("kept_bytes").metadata == {b"unit": b"bytes"} and str(schema.field("score").type) == "double"
    about = json.loads(schema.metadata[b"cokv"])
    assert about["spec"] == json.loads((run / "spec.json").read_text()) and about["finished"] is True
    assert about["units"]["score"] == "percent" and about["units"]["prompt_tokens"] == "tokens"


def test_a_field_without_a_column_is_exported_too(run):
    file = run / "predictions.jsonl"
    lines = [json.loads(line) | {"unheard_of": [1, {"a": None}]} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "done.json").unlink()
    assert call("export", run, "--unfinished").exit_code == 0
    rows = pyarrow.parquet.read_table(run / "predictions.parquet").to_pylist()
    assert all(json.loads(row["other"]) == {"unheard_of": [1, {"a": None}]} for row in rows)


def test_an_unfinished_run_is_exported_only_when_asked(run):
    (run / "done.json").unlink()
    file = run / "predictions.jsonl"
    file.write_bytes(file.read_bytes() + b'{"torn')
    assert "not finished: it holds no done.json" in refused(call("export", run))
    assert not (run / "predictions.parquet").exists()
    assert call("export", run, "--unfinished").exit_code == 0
    table = pyarrow.parquet.read_table(run / "predictions.parquet")
    assert len(table) == len(file.read_bytes().splitlines()) - 1
    assert json.loads(table.schema.metadata[b"cokv"])["finished"] is False


def test_what_cannot_be_exported_is_one_clear_line_and_leaves_no_file(run, tmp_path):
    assert "no run folder" in refused(call("export", tmp_path / "nothing"))
    assert "is a folder" in refused(call("export", run, "--out", tmp_path))
    assert "there is no folder" in refused(call("export", run, "--out", tmp_path / "no" / "run.parquet"))
    file = run / "predictions.jsonl"
    first, rest = file.read_text().split("\n", 1)
    (run / "done.json").unlink()
    file.write_text(json.dumps(json.loads(first) | {"generated_tokens": "many"}) + "\n" + rest)
    message = refused(call("export", run, "--unfinished"))
    assert "field 'generated_tokens' is not int64 everywhere" in message
    file.write_text("{broken\n" + rest)
    assert "line 1: not JSON" in refused(call("export", run, "--unfinished"))
    assert not list(run.glob("*.parquet*")) and not list(run.glob(".*.part"))


def test_a_disk_that_fills_up_leaves_the_older_file(run, monkeypatch):
    assert call("export", run).exit_code == 0
    before = (run / "predictions.parquet").read_bytes()

    def full(_table: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    assert "No space left on device" in refused(call("export", run))
    assert (run / "predictions.parquet").read_bytes() == before and not list(run.glob(".*.part"))
