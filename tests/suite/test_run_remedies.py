"""What an error about a damaged run folder advises works: when it is followed, the run ends in the same answers."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import call, refused

from reports.aggregate_again import aggregate_again

ANSWERS = ("metrics.json", "stability.json", "predictions.jsonl")
EXPERIMENT = """
name = "small"
methods = ["full", "streamingllm", "headkv_r", "razorattention"]
kv_budgets = [16]
model = {{ name = "{model}" }}
ruler = {{ preset = "mini", length = 160, samples = 2, tasks = ["vt"] }}
game = {{ window_size = 8, prompts = 1, slice_sizes = [2], coalitions_per_size = 3 }}
measure = {{ kv_budget = 16, prompt_tokens = 64, new_tokens = 2, repeats = 1 }}
profiles = {{ prompts = 1, period = 20 }}
"""


@pytest.fixture(scope="module")
def finished(random_model, tmp_path_factory) -> Path:
    """A folder with an experiment, x.toml, and its finished run in runs/."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "x.toml").write_text(EXPERIMENT.format(model=random_model), encoding="utf-8")
    text = (folder / "x.toml").read_text(encoding="utf-8")
    for methods in ('"knorm", "full"', '"full"'):  # first with a method more, whose answers the run keeps
        (folder / "x.toml").write_text(text.replace('"full"', methods), encoding="utf-8")
        result = call("reproduce", "--experiment", folder / "x.toml", "--runs", folder / "runs")
        assert result.exit_code == 0, result.output
    assert (next((folder / "runs").glob("small-*")) / "other_predictions.jsonl").is_file()
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


def lose_the_experiment(file: Path) -> None:
    spec = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({key: value for key, value in spec.items() if key != "experiment"}))


def make_a_list(file: Path) -> None:
    file.write_text("[3]")


def make_an_empty_object(file: Path) -> None:
    file.write_text("{}")


def follow(message: str, run: Path) -> None:
    """Does what a message advises before the command is run again."""
    advice = message.rpartition("; ")[2]
    assert "again" in advice, message
    if "move the folder away" in advice:
        shutil.move(run, run.parent.parent / "moved_away")
    if "move the file away" in advice:
        file = Path(re.search(r"(/\S+): not a ledger", message)[1])
        file.rename(file.with_suffix(".damaged"))
    if "remove the line" in advice or "delete that line" in advice:
        file, number = re.search(r"(\w+\.jsonl) line (\d+)", message).groups()
        lines = (run / file).read_bytes().splitlines(keepends=True)
        (run / file).write_bytes(b"".join(lines[: int(number) - 1] + lines[int(number) :]))
    for name in re.findall(r"delete ([\w.]+\.jsonl?)", advice):
        (run / name).unlink()
    if "reports.aggregate_again" in advice:
        aggregate_again(run)
    if "delete that file" in advice:
        Path(re.search(r"(/[^ :]+\.(json|safetensors))", message)[1]).unlink()


Damage = tuple[str, Callable[[Path], None]]
OF_ANSWERS: list[Damage] = [
    *(("spec.json", damage) for damage in (tear, nest, make_a_list, make_an_empty_object, lose_the_experiment, delete)),
    *(("predictions.jsonl", damage) for damage in (tear, break_line_2, empty, delete, write_record_of_another_shape)),
]
DAMAGE: list[Damage] = [
    *OF_ANSWERS,
    *(("metrics.json", damage) for damage in (tear, nest, make_a_list, change_shape, empty_rows, delete)),
    *(("done.json", damage) for damage in (tear, nest, make_a_list)),
    *(("stability.json", damage) for damage in (tear, change_shape, delete)),
    *(("measurements.json", damage) for damage in (nest, make_a_list, change_shape)),
]
AT_WORK: list[Damage] = [  # what is read by a run that has something left to do
    *(("other_predictions.jsonl", damage) for damage in (tear, break_line_2, write_record_of_another_shape)),
    *(("profiles/headkv_r.json", damage) for damage in (nest, make_a_list, delete)),
    *(("profiles/razorattention.safetensors", damage) for damage in (tear, delete)),
    *(("head_scores/vt.safetensors", damage) for damage in (tear, delete)),
    *(("measurements.json", damage) for damage in (tear, make_a_list)),
    *(("../games/{vt}/game.sqlite", damage) for damage in (nest, delete)),
    *(("../games/{vt}/spec.json", damage) for damage in (nest, delete)),
]


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    """They are most of the time, and read nothing that the tables do not."""
    monkeypatch.setattr("reports.report._draw", lambda run, folder: [])


def copied(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The finished run, and a copy of it in tmp_path."""
    (good,) = (finished / "runs").glob("*-*")
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return good, tmp_path / "runs" / good.name


def obey(command: str, run: Path, experiment: Path) -> None:
    """Runs a command and does what it advises, until it succeeds."""
    for _ in range(3):  # one piece of advice may uncover the next
        if command == "reproduce":
            result = call("reproduce", "--experiment", experiment, "--runs", run.parent)
        else:
            result = call(command, run)
        if result.exit_code == 0:
            return
        follow(refused(result), run)
        if command != "reproduce":  # which is what all advice ends with
            obey("reproduce", run, experiment)
    pytest.fail(f"three times refused: {result.output}")


def same_answers(run: Path, good: Path) -> None:
    for file in ANSWERS:
        assert (run / file).read_bytes() == (good / file).read_bytes(), file


CASES = [("report", *case) for case in DAMAGE] + [("reproduce", *case) for case in DAMAGE]


@pytest.mark.parametrize(("command", "name", "damage"), CASES + [("score", *case) for case in OF_ANSWERS])
def test_following_the_advice_ends_in_the_same_answers(finished, tmp_path, command, name, damage):
    """Damage, one line of advice; when it is followed, the command succeeds, and the answers are the same."""
    good, run = copied(finished, tmp_path)
    damage(run / name)
    for each in dict.fromkeys((command, "reproduce", "report")):
        obey(each, run, finished / "x.toml")
    same_answers(run, good)


@pytest.mark.parametrize(("name", "damage"), AT_WORK)
def test_advice_to_a_run_at_work_is_good_too(finished, tmp_path, name, damage):
    good, run = copied(finished, tmp_path)
    (run / "done.json").unlink()
    (game,) = (path.name for path in (tmp_path / "runs" / "games").glob("vt-*") if "test" not in path.name)
    damage(run / name.format(vt=game))
    obey("reproduce", run, finished / "x.toml")
    same_answers(run, good)


@pytest.mark.parametrize("spec", ["{}", '{"experiment": 3}', '{"experiment": {"ruler": {}}}'])
def test_a_score_without_the_settings_of_its_benchmark_is_refused(finished, tmp_path, spec):
    _, run = copied(finished, tmp_path)
    (run / "spec.json").write_text(spec)
    message = refused(call("score", run))
    assert "spec.json: has no experiment.ruler.preset" in message and "delete spec.json" in message


def test_a_score_without_its_text_is_refused(finished, tmp_path):
    (good,) = (finished / "runs").glob("*-*")
    shutil.copytree(good, tmp_path / good.name)
    file = tmp_path / good.name / "predictions.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps({**record, "prediction": None}) + "\n" for record in records))
    assert "no 'prediction', so it cannot be judged again" in refused(call("score", tmp_path / good.name))
