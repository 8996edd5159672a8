"""`cokv heads` on a random model: records land in the run folder, and mistakes are one line."""

import json

import numpy as np
import pytest

from cokv.types import HeadScores
from suite.cli.heads import app
from suite.experiment import open_run
from suite.heads.transfer import answers
from suite.spec import read_experiment

PLAYERS = 4


def main(arguments: list[str]) -> int:
    return app(arguments, standalone_mode=False) or 0


@pytest.fixture
def arguments(experiment_file, tmp_path) -> list[str]:
    return ["--experiment", str(experiment_file), "--runs", str(tmp_path / "runs")]


@pytest.fixture
def folder(experiment_file, tmp_path):
    """The run's folder with head scores of both tasks, as a run makes them."""
    run, _ = open_run(read_experiment(experiment_file), tmp_path / "runs")
    run.open()
    for place, task in enumerate(("niah_single_1", "vt")):
        values = np.random.default_rng(place).normal(size=(2, 2))
        HeadScores(values, {"task": task}).save(run.path / "head_scores" / f"{task}.safetensors")
    return run


def test_curves_of_all_tasks_and_of_one_again(folder, arguments, capsys):
    assert main(["masking", *arguments, "--samples", "2"]) == 0
    *table, path = capsys.readouterr().out.strip().splitlines()
    assert path == str(folder.path / "masking.json")
    assert "Bottom" in "".join(table) and sum(line.startswith(("niah_single_1 ", "vt ")) for line in table) == 2
    first = folder.read("masking.json")
    assert [(c["task"], c["scores"], c["preset"]) for c in first["curves"]] == [
        ("niah_single_1", "run", "normalized"),
        ("vt", "run", "normalized"),
    ]
    for curve in first["curves"]:
        assert curve["num_players"] == PLAYERS and curve["samples"] == 2 and curve["window_size"] == 8
        assert {p["heads"] for p in curve["points"]} == set(range(PLAYERS + 1))
        ends = [p["score"] for p in curve["points"] if p["heads"] == PLAYERS]
        assert len(set(ends)) == 1, "all heads masked is one coalition, whatever the order"
        assert all(p["score"] == curve["full"]["score"] for p in curve["points"] if p["heads"] == 0)
    assert main(["masking", *arguments, "--samples", "2", "--task", "vt", "--preset", "official"]) == 0
    second = folder.read("masking.json")
    assert len(second["curves"]) == 3 and second["curves"][0] == first["curves"][0]
    assert {p["masked"] - p["heads"] for p in second["curves"][2]["points"] if p["cut"] == "top"} == {1}
    assert main(["masking", *arguments, "--samples", "2"]) == 0
    assert folder.read("masking.json") == second


def test_what_is_recorded_is_not_evaluated_again(folder, arguments, monkeypatch):
    """As after a kill between the last coalition and the record of the curves."""
    command = ["masking", *arguments, "--task", "vt", "--samples", "2"]
    assert main(command) == 0
    first = folder.read("masking.json")
    (folder.path / "masking.json").unlink()

    def fail(*_):
        raise AssertionError("evaluated again")

    monkeypatch.setattr("suite.heads.masking_and_transfer.game_of", fail)
    assert main(command) == 0
    assert folder.read("masking.json") == first
    with pytest.raises(AssertionError, match="evaluated again"):
        main([*command[:-1], "1"])


def test_scores_of_a_file(folder, arguments, tmp_path):
    own = tmp_path / "own.safetensors"
    HeadScores(np.arange(4.0).reshape(2, 2)).save(own)
    heads = tmp_path / "heads.json"
    heads.write_text(json.dumps({f"{layer}-{head}": [layer + head] for layer in range(2) for head in range(4)}))
    for file in (own, heads):
        command = ["--task", "vt", "--samples", "1", "--counts", "0,2", "--scores", str(file)]
        assert main(["masking", *arguments, *command]) == 0
    assert [c["scores"] for c in folder.read("masking.json")["curves"]] == ["heads", "own"]


def test_the_transfer_matrix(folder, arguments, capsys):
    assert main(["transfer", *arguments, "--samples", "2", "--kv-budget", "32"]) == 0
    *table, path = capsys.readouterr().out.strip().splitlines()
    assert path == str(folder.path / "transfer.json")
    assert any(line.startswith("uniform budgets") for line in table) and "difference" in "".join(table)
    record = folder.read("transfer.json")
    assert record["sources"] == record["targets"] == ["niah_single_1", "vt"] and record["kv_budget"] == 32
    assert len(record["cells"]) == 4 and all(cell["samples"] == 2 for cell in record["cells"])
    assert {row["name"] for row in record["baselines"]} == {"uniform", "full"}
    assert main(["transfer", *arguments, "--samples", "2", "--kv-budget", "32"]) == 0
    assert folder.read("transfer.json") == record


def test_answered_samples_are_not_answered_again(folder, arguments, monkeypatch):
    command = ["transfer", *arguments, "--samples", "2", "--kv-budget", "32"]
    assert main(command) == 0
    first = folder.read("transfer.json")
    (folder.path / "transfer.json").unlink()
    lines = (folder.path / "transfer.jsonl").read_bytes().splitlines(keepends=True)
    (folder.path / "transfer.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])  # as a kill leaves it
    calls = []

    def counted(*evaluated):
        calls.append(evaluated)
        return answers(*evaluated)

    monkeypatch.setattr("suite.heads.masking_and_transfer.answers", counted)
    assert main(command) == 0
    assert folder.read("transfer.json") == first and len(calls) == 2
    assert main([*command[:-1], "24"]) == 0
    assert len(calls) == 6, "another budget is another question"


@pytest.mark.parametrize(
    "wrong",
    [
        ["masking", "--task", "none"], ["masking", "--counts", "1,x"], ["masking", "--counts", "9"],
        ["masking", "--samples", "0"], ["masking", "--preset", "other"], ["masking", "--draws", "0"],
        ["masking", "--scores", "none.npy"], ["masking", "--preset", "official", "--counts", "0"],
        ["transfer", "--kv-budget", "9"], ["transfer", "--kv-budget", "0"], ["transfer", "--task", "none"],
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_record(folder, arguments, wrong, capsys):
    assert main([wrong[0], *arguments, *wrong[1:]]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cokv: ") and err.count("\n") == 1, err
    assert {file.name for file in folder.path.iterdir()} == {"spec.json", "head_scores"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["masking", "--counts", "0,99"], "from 0 to 4"),
        (["masking", "--counts", ""], "whole numbers"),
        (["masking", "--preset", "other"], "'normalized' or 'official'"),
        (["masking"], "run `cokv reproduce`"),
        (["masking", "--scores", "none.npy"], "none.npy"),
        (["transfer", "--kv-budget", "0"], "positive whole number"),
        (["transfer", "--kv-budget", "9"], "window"),
        (["transfer"], "run `cokv reproduce`"),
    ],
)
def test_a_mistake_is_told_before_there_is_a_run_folder(arguments, tmp_path, wrong, message, capsys):
    assert main([wrong[0], *arguments, *wrong[1:]]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_head_scores_it_says_what_to_run(arguments, capsys):
    assert main(["masking", *arguments, "--task", "vt"]) == 2
    assert "holds no head scores of vt; run `cokv reproduce`" in capsys.readouterr().err
