"""`cokv profile`: scores of a task from its ledger; extended, stopped, merged, shared out without a difference."""

import fcntl
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cokv.game.estimators import ESTIMATORS, SlicedShapley
from cokv.game.ledger import Ledger
from cokv.game.plan import merge_plans
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import HeadScores
from suite.cli.main import app
from suite.heads.games import worker_of
from suite.heads.ledger_scores import from_record

runner = CliRunner()
PLAYERS = 8  # 2 layers x 4 query heads


@pytest.fixture
def game_file(experiment_file) -> Path:
    """Enough players for several blocks of coalitions, and a utility that shows the last bit."""
    keys = 'slice_sizes = [3, 4]\nplayers = "query_head"\nutility = "probability"\nblock_size = 16'
    text = experiment_file.read_text().replace("slice_sizes = [2]", keys)
    text = text.replace("coalitions_per_size = 3", "coalitions_per_size = 12").replace(', "cokv"]', "]")
    experiment_file.write_text(text)
    return experiment_file


def call(*arguments: object):
    return runner.invoke(app, ["profile", *map(str, arguments)])


def ssv(game_file: Path, runs: Path, *options: object) -> Path:
    result = call("ssv", "--experiment", game_file, "--task", "vt", "--runs", runs, *options)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip().splitlines()[-1])


def refused(result) -> str:
    assert result.exit_code == 2, result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("cokv: ") and "Traceback" not in result.output
    return message


def digest(folder: Path) -> str:
    with Ledger(folder / "game.sqlite", create=False) as ledger:
        (game,) = ledger.games()
        return game.digest


def test_a_profile_has_scores_with_intervals_and_says_what_they_rest_on(game_file, tmp_path):
    folder = ssv(game_file, tmp_path)
    scores = HeadScores.load(folder / "ssv.safetensors")
    read = json.loads((folder / "ssv.json").read_text())
    assert scores.values.shape == (2, 4) and np.ptp(scores.values) > 0
    assert [(h["layer"], h["kv_head"]) for h in read["heads"]] == [(i, j) for i in range(2) for j in range(4)]
    for head, value in zip(read["heads"], scores.values.reshape(-1), strict=True):
        assert head["score"] == value and head["low"] < head["high"] and head["standard_error"] > 0
        assert len(head["runs"]) == 2
    assert read["planned_draws"] == read["draws"] == [24, 24] and read["stopped"].startswith("all planned")
    with Ledger(folder / "game.sqlite", create=False) as ledger:
        (game,) = ledger.games()
        assert len(game) == read["evaluations"] == read["coalitions"] > 48
        assert np.array_equal(from_record(game).estimate.values, scores.values.reshape(-1))
        assert game.hash == read["game_hash"] and all(":" in origin for (origin, _), _, _ in game.blocks())
    for file in (folder / "ssv.safetensors", folder / "game.sqlite"):
        shown = call("show", file).stdout
        assert f"{scores.values[1, 3]:.4g}" in shown and "head 3" in shown and " to " in shown


def test_the_same_command_again_evaluates_nothing(game_file, tmp_path):
    folder = ssv(game_file, tmp_path)
    scores, names = HeadScores.load(folder / "ssv.safetensors"), ("game.sqlite", "ssv.json", "spec.json")
    before = {name: (folder / name).read_bytes() for name in names}
    assert ssv(game_file, tmp_path) == folder
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert HeadScores.load(folder / "ssv.safetensors") == scores


def test_a_stopped_run_goes_on_to_the_undisturbed_end(game_file, tmp_path):
    whole = ssv(game_file, tmp_path / "whole")
    stopped = ssv(game_file, tmp_path / "stopped", "--max-evaluations", 30)
    read = json.loads((stopped / "ssv.json").read_text())
    assert read["coalitions"] == 32 and "budget is 30" in read["stopped"] and max(read["draws"]) < 24
    again = ssv(game_file, tmp_path / "stopped", "--max-evaluations", 30)
    assert json.loads((again / "ssv.json").read_text()) == read
    assert ssv(game_file, tmp_path / "stopped") == stopped
    assert digest(stopped) == digest(whole)
    assert (stopped / "ssv.json").read_bytes() == (whole / "ssv.json").read_bytes()
    assert HeadScores.load(stopped / "ssv.safetensors") == HeadScores.load(whole / "ssv.safetensors")


def test_an_accuracy_rule_stops_at_the_same_prefix_whatever_is_recorded(game_file, tmp_path):
    rule = ("--reliability", "0.01")
    first = json.loads((ssv(game_file, tmp_path / "first", *rule) / "ssv.json").read_text())
    assert "reliability" in first["stopped"] and first["coalitions"] < first["planned_coalitions"]
    ssv(game_file, tmp_path / "second")
    second = json.loads((ssv(game_file, tmp_path / "second", *rule) / "ssv.json").read_text())
    assert second == first


def test_more_coalitions_add_to_what_is_there(game_file, tmp_path):
    short = ssv(game_file, tmp_path, "--coalitions", 6)
    with Ledger(short / "game.sqlite", create=False) as ledger:
        before = {
            key: value
            for game in ledger.games()
            for _, *rows in game.blocks()
            for key, value in zip(*rows, strict=True)
        }
    assert ssv(game_file, tmp_path) == short
    with Ledger(short / "game.sqlite", create=False) as ledger:
        (game,) = ledger.games()
        after = [(key, value) for _, *rows in game.blocks() for key, value in zip(*rows, strict=True)]
        assert len(after) == len(dict(after)) == len(game) > len(before)
        assert before.items() <= dict(after).items()
        assert [d["estimator"]["coalitions_per_size"] for d in game.designs()] == [12, 6]
        assert from_record(game).estimate.evaluations == len(game)


def test_two_processes_make_the_ledger_of_one(game_file, tmp_path):
    alone, two = ssv(game_file, tmp_path / "one"), ssv(game_file, tmp_path / "two", "--workers", 2)
    assert digest(two) == digest(alone) and two.name == alone.name
    assert (two / "ssv.json").read_bytes() == (alone / "ssv.json").read_bytes()


def test_two_machines_merged_are_read_as_longer_halves(game_file, tmp_path):
    folders = [ssv(game_file, tmp_path / f"seed{seed}", "--seed", seed) for seed in (0, 5)]
    assert folders[0].name == folders[1].name, "a seed is no part of what the game is"
    out = tmp_path / "merged.sqlite"
    result = call("merge", out, *(folder / "game.sqlite" for folder in folders), "--tolerance", 1e-6)
    assert result.exit_code == 0, result.output
    written = tmp_path / "merged.safetensors"
    assert call("aggregate", out, "--out", written).exit_code == 0
    scores = HeadScores.load(written)
    assert scores.provenance["draws"] == [48, 48]
    with Ledger(out, create=False) as ledger:
        assert scores.provenance["evaluations"] == len(ledger.games()[0])
    other = ssv(game_file, tmp_path / "other", "--first-token", "compressed")
    message = refused(call("merge", tmp_path / "new.sqlite", folders[0] / "game.sqlite", other / "game.sqlite"))
    assert "first_token" in message and not (tmp_path / "new.sqlite").exists()


def test_a_ledger_is_aggregated_again_without_a_model(game_file, tmp_path):
    ledger = ssv(game_file, tmp_path) / "game.sqlite"
    paper, official, one = (tmp_path / name for name in ("paper", "official", "one"))
    assert call("aggregate", ledger, "--out", paper).exit_code == 0
    assert call("aggregate", ledger, "--aggregation", "official", "--out", official).exit_code == 0
    assert call("aggregate", ledger, "--slice-sizes", "4", "--out", one).exit_code == 0
    with Ledger(ledger, create=False) as opened:
        (game,) = opened.games()
        game_plan = from_record(game)
        merged = merge_plans(game_plan.halves)
        utilities = game.utilities(merged.coalitions).mean(axis=1)
        direct = SlicedShapley((3, 4), 12, "official").aggregate(merged, utilities)
    assert np.array_equal(HeadScores.load(official).values.reshape(-1), direct.values)
    assert not np.allclose(HeadScores.load(paper).values, HeadScores.load(official).values)
    assert HeadScores.load(one).provenance["estimator"]["slice_sizes"] == [4]
    assert "slice size 1" in refused(call("aggregate", ledger, "--estimator", "complementary"))
    assert "lacks" in refused(call("aggregate", ledger, "--estimator", "leave_one_out"))
    for name in ESTIMATORS:  # what cannot read these coalitions says so in one line
        result = call("aggregate", ledger, "--estimator", name)
        assert result.exit_code == 0 or refused(result), result.output
    assert "unknown estimator" in refused(call("aggregate", ledger, "--estimator", "banzhaf"))
    assert "4,8" in refused(call("aggregate", ledger, "--slice-sizes", "four"))
    assert "--game" in refused(call("aggregate", ledger, "--game", "fwe"))


def reproduce(experiment_file: Path, runs: Path) -> Path:
    result = runner.invoke(app, ["reproduce", "--experiment", str(experiment_file), "--runs", str(runs)])
    assert result.exit_code == 0, result.output
    (folder,) = runs.glob("tiny-*")
    return folder


def test_the_ledgers_of_an_experiment_are_shown_and_aggregated(experiment_file, tmp_path):
    folder = reproduce(experiment_file, tmp_path / "runs")
    games = {path.name.rpartition("-")[0]: path / "game.sqlite" for path in (tmp_path / "runs" / "games").iterdir()}
    assert games.keys() == {"vt", "vt-test", "niah_single_1", "niah_single_1-test"}
    assert "vt" in call("show", games["vt"]).stdout
    assert "leave_one_out" in refused(call("aggregate", games["vt-test"])), "test samples have no planned coalitions"
    both, written = tmp_path / "both.sqlite", tmp_path / "vt.safetensors"
    assert call("merge", both, games["vt"], games["niah_single_1"]).exit_code == 0
    assert "name one of" in refused(call("aggregate", both))
    assert call("aggregate", both, "--game", "vt", "--out", written).exit_code == 0
    stored = HeadScores.load(folder / "head_scores" / "vt.safetensors")
    assert np.array_equal(HeadScores.load(written).values, stored.values)


def test_a_profile_and_an_experiment_share_the_ledger_of_their_game(experiment_file, tmp_path, monkeypatch):
    """Whoever plays second evaluates nothing: a profile after a run, and a run after a profile."""
    run = reproduce(experiment_file, tmp_path / "one")
    profile = ssv(experiment_file, tmp_path / "two")
    recorded = digest(profile)
    with monkeypatch.context() as patched:
        patched.setattr("suite.heads.games.worker_of", None)
        assert digest(ssv(experiment_file, tmp_path / "one")) == recorded
    called = []
    monkeypatch.setattr("suite.heads.games.worker_of", lambda game: called.append(game) or worker_of(game))
    assert (reproduce(experiment_file, tmp_path / "two") / "stability.json").read_bytes() == (
        run / "stability.json"
    ).read_bytes()
    assert len(called) == 3, "the other task's game, and removal on both tasks"
    assert digest(profile) == recorded


def test_a_game_is_played_by_one_process_at_a_time(experiment_file, tmp_path):
    folder = ssv(experiment_file, tmp_path)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        message = refused(call("ssv", "--experiment", experiment_file, "--task", "vt", "--runs", tmp_path))
    assert f"{folder} is being written by another process" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--task", "cwe"), "niah_single_1, vt"),
        (("--task", "vt", "--reliability", "1.5"), "between 0 and 1"),
        (("--task", "vt", "--max-minutes", "0"), "above 0"),
        (("--task", "vt", "--workers", "0"), "at least 1"),
        (("--task", "vt", "--coalitions", "0"), "coalitions_per_size"),
        (("--task", "vt", "--utility", "rouge"), "utility"),
        (("--task", "vt", "--utility", "log_likelihood", "--mae"), "between 0 and 1"),
        (("--task", "vt", "--estimator", "adjusted", "--coalitions", "3"), "even number"),
    ],
)
def test_a_wrong_option_is_one_line(game_file, tmp_path, options, words):
    result = call("ssv", "--experiment", game_file, "--runs", tmp_path, *options)
    assert words in refused(result)
    assert not list(tmp_path.glob("profiles/*"))


def test_an_experiment_without_a_game_is_refused(game_file, tmp_path):
    text = game_file.read_text()
    start, end = text.index("[game]"), text.index("[measure]")
    game_file.write_text(text[:start] + text[end:])
    assert "no [game] section" in refused(call("ssv", "--experiment", game_file, "--task", "vt", "--runs", tmp_path))


def test_what_is_no_profile_is_refused(tmp_path):
    assert "no such file" in refused(call("show", tmp_path / "none"))
    assert "is a folder" in refused(call("show", tmp_path))
    assert "no such file" in refused(call("compare", tmp_path / "none"))
    (tmp_path / "text").write_text("scores")
    message = refused(call("show", tmp_path / "text"))
    assert "text is neither" in message and "damaged" not in message and ".tsv" in message
    (tmp_path / "torn.safetensors").write_bytes(b"\x40")
    assert "damaged" in refused(call("show", tmp_path / "torn.safetensors"))
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    assert "something else" in refused(call("show", tmp_path / "db"))


def test_published_files_are_shown(tmp_path):
    """One of every kind, written as released."""
    sums, counts = np.append(np.arange(16.0), 0), np.append(np.full(16, 4.0), 0)
    published = {"cc_left": sums, "cc_right": sums, "count_left": counts, "count_right": counts, "sampling_count": 8}
    np.save(tmp_path / "cc_qasper_8.npy", published)
    heads = {f"{layer}-{head}": [(4 * layer + head) / 100] for layer in range(2) for head in range(4)}
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    (tmp_path / "gates.tsv").write_text("0.125\t0.875\n1.5\t0.25\n")
    (tmp_path / "config.json").write_text(json.dumps({"sink_size": 4, "recent_size": 28}))
    curves = np.linspace(0.01, 0.99, 99)[:, None, None] ** np.array([[1.0, 2.0]])
    RatioCurves(curves).save(tmp_path / "curves.safetensors")
    for name, words in (
        ("cc_qasper_8.npy", ("3.75", "8 coalitions of 8 heads", "nawei1010")),
        ("heads.json", ("head 3", "0.07", "HeadKV")),
        ("gates.tsv", ("0.875", "sink_size: 4", "duo-attention")),
        ("curves.safetensors", ("0.0625", "25% of the cache")),
    ):
        result = call("show", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert all(word in result.stdout for word in words), result.stdout
    assert "0.06" in call("show", tmp_path / "heads.json", "--shape", "2x2").stdout
    assert "32x8" in refused(call("show", tmp_path / "heads.json", "--shape", "two"))
