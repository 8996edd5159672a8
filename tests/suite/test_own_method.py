"""A method of one's own in an experiment file: run, recorded with the digest of its code, and reported."""

import json
from pathlib import Path

import pytest

from reports import write_report
from suite.experiment import run_experiment
from suite.spec import read_experiment

OWN = "own_scorers:ValueNorm"


@pytest.fixture
def own_experiment(experiment_file, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "methods"))
    text = experiment_file.read_text().partition("[game]")[0]
    text = text.replace(
        'methods = ["full", "streamingllm", "snapkv", "cokv"]', f'methods = ["full", "snapkv", "{OWN}"]'
    )
    text = text.replace("seeds = [0, 1]", "seeds = [0]").replace("window_size = 8", "window_size = 8\nrecent = 2")
    experiment_file.write_text(text)
    return experiment_file


def test_it_runs_beside_the_others(own_experiment, tmp_path):
    experiment = read_experiment(own_experiment, limit=1)
    assert [m.params for m in experiment.methods] == [{}, {"window_size": 8}, {"recent": 2}]
    folder = run_experiment(experiment, tmp_path / "runs")
    records = [json.loads(line) for line in (folder.path / "predictions.jsonl").read_text().splitlines()]
    own_records = [r for r in records if r["method"] == OWN]
    assert {r["kv_budget"] for r in own_records} == {16, 32} and all(
        r["kept_tokens"] == r["kv_budget"] * 4 for r in own_records
    )
    spec = json.loads((folder.path / "spec.json").read_text())
    assert "own_scorers.py, sha256 " in json.dumps(spec)
    assert spec["about"]["titles"] == {"full": "Full", "snapkv": "SnapKV", OWN: "ValueNorm"}
    assert OWN in (write_report(folder.path) / "report.md").read_text()


def test_a_wrong_path_names_the_key(own_experiment, tmp_path):
    own_experiment.write_text(own_experiment.read_text().replace(OWN, "own_scorers:ValueNrom"))
    with pytest.raises(ValueError, match=r"methods.*has no class ValueNrom"):
        read_experiment(own_experiment)
