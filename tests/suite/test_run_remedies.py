"""What an error about a damaged run folder advises works: when it is followed, the run ends in the same answers."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import call, refused

ANSWERS = ("metrics.json", "stability.json", "predictions.jsonl")
EXPERIMENT = """
name = "small"
methods = ["full", "streamingllm"]
kv_budgets = [16]
model = {{ name = "{model}" }}
ruler = {{ preset = "mini", length = 160, samples = 2, tasks = ["vt"] }}
game = {{ window_size = 8, prompts = 1, slice_sizes = [2], coalitions_per_size = 3 }}
measure = {{ kv_budget = 16, prompt_tokens = 64, new_tokens = 2, repeats = 1 }}
"""


@pytest.fixture(scope="module")
def finished(random_model, tmp_path_factory) -> Path:
    """A folder with an experiment, x.toml, and its finished run in runs/."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "x.toml").write_text(EXPERIMENT.format(model=random_model), encoding="utf-8")
    result = call("reproduce", "--experiment", folder / "x.toml", "--runs", folder / "runs")
    assert result.exit_code == 0, result.output
    return folder


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def break_line_2(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([lines[0], lines[1][:30], *lines[2:]]) + "\n", encoding="utf-8")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def nest(file: Path) -> None:
    file.write_text("[" * 100_000)


def change_shape(file: Path) -> None:
    file.write_text(json.dumps({key: 3 for key in json.loads(file.read_text(encoding="utf-8"))}))


def empty_rows(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "cells": [{}]}))


def delete(file: Path) -> None:
    file.unlink()


def write_record_of_another_shape(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines, '{"other": 1}']) + "\n", encoding="utf-8")


def follow(message: str, run: Path) -> None:
    """Does what a message advises before the command is run again."""
    advice = message.rpartition("; ")[2]
    assert "again" in advice, message
    if "move the folder away" in advice:
        shutil.move(run, run.parent.parent / "moved_away")
    if "remove the line" in advice:
        file, number = re.search(r"(\w+\.jsonl) line (\d+)", message).groups()
        lines = (run / file).read_bytes().splitlines(keepends=True)
        (run / file).write_bytes(b"".join(lines[: int(number) - 1] + lines[int(number) :]))
    for name in re.findall(r"delete ([\w.]+\.jsonl?)", advice):
        (run / name).unlink()
    if "delete that file" in advice:
        Path(re.search(r"(/\S+\.json) is damaged", message)[1]).unlink()


DAMAGE: list[tuple[str, Callable[[Path], None]]] = [
    ("metrics.json", tear), ("metrics.json", empty_rows),
    ("metrics.json", nest), ("metrics.json", delete), ("metrics.json", change_shape),
    ("predictions.jsonl", tear), ("predictions.jsonl", break_line_2), ("predictions.jsonl", empty),
    ("predictions.jsonl", delete), ("predictions.jsonl", write_record_of_another_shape),
    ("stability.json", tear), ("stability.json", change_shape),
    ("measurements.json", nest), ("measurements.json", change_shape),
    ("spec.json", tear), ("spec.json", nest), ("spec.json", delete),
]  # fmt: skip


@pytest.mark.parametrize("command", ["report", "reproduce"])
@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_following_the_advice_ends_in_the_same_answers(finished, tmp_path, command, name, damage):
    (good,) = (finished / "runs").glob("*-*")
    run = tmp_path / "runs" / good.name
    shutil.copytree(good, run)
    damage(run / name)
    reproduce = ("reproduce", "--experiment", finished / "x.toml", "--runs", tmp_path / "runs")
    result = call("report", run) if command == "report" else call(*reproduce)
    if result.exit_code:  # reproduce makes a missing file again without being told to
        follow(refused(result), run)
    else:
        assert command == "reproduce"
    again = call(*reproduce)
    assert again.exit_code == 0, again.output
    assert call("report", run).exit_code == 0
    assert {file: (run / file).read_bytes() for file in ANSWERS} == {
        file: (good / file).read_bytes() for file in ANSWERS
    }


@pytest.mark.parametrize("spec", ["{}", '{"experiment": 3}', '{"experiment": {"ruler": {}}}'])
def test_a_score_without_the_settings_of_its_benchmark_is_refused(finished, tmp_path, spec):
    (good,) = (finished / "runs").glob("*-*")
    shutil.copytree(good, tmp_path / good.name)
    (tmp_path / good.name / "spec.json").write_text(spec)
    message = refused(call("score", tmp_path / good.name))
    assert "spec.json: has no experiment.ruler.preset" in message and "move the folder away" in message


def test_a_score_without_its_text_is_refused(finished, tmp_path):
    (good,) = (finished / "runs").glob("*-*")
    shutil.copytree(good, tmp_path / good.name)
    file = tmp_path / good.name / "predictions.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps({**record, "prediction": None}) + "\n" for record in records))
    assert "no 'prediction', so it cannot be judged again" in refused(call("score", tmp_path / good.name))
