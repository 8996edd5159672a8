"""All checks on the embedded model at their smallest: every check has rows, a killed run ends as an undisturbed one."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from suite.checks.run import run_checks
from suite.cli.main import app
from suite.experiment import run_experiment
from suite.spec import CHECKS, read_experiment, with_model

EXPERIMENT = """
name = "checked"
methods = ["full", "snapkv", "adakv", "cokv"]
kv_budgets = [32]

[method_defaults]
window_size = 8

[ruler]
preset = "mini"
length = 192
samples = 3
tasks = ["niah_single_1", "vt"]

[game]
prompts = 2
utility = "probability"
first_token = "compressed"
slice_sizes = [4, 8]
coalitions_per_size = 12
removal_samples = 1

[checks]
samples = 3
kv_budget = 32
coalitions_per_size = 14
reference_per_size = 3
windows = [8, 16, 32]
alpha_shares = [0.0, 0.5]
masked_shares = [0.1, 0.3333]
"""


class Killed(Exception):
    """In place of a signal: between two blocks or two samples."""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checks") / "checked.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    """The folder of an undisturbed run."""
    return run_experiment(read_experiment(file), tmp_path_factory.mktemp("undisturbed"))


def test_every_check_has_rows_each_with_a_verdict_or_a_reason(finished):
    record = finished.read("checks.json")
    assert list(dict.fromkeys(row["check"] for row in record["rows"])) == list(CHECKS)
    for row in record["rows"]:
        assert row.get("verdict") in ("holds", "does not hold", "undecided") or row["not_run"], row
        if "verdict" in row and "why" not in row:
            assert "low" in row and "high" in row, "a number without its interval decides nothing"
    reasons = {row["what"]: row["not_run"] for row in record["rows"] if "not_run" in row}
    assert "twice the window of 32" in reasons["A window of 32 better than 8?"], reasons
    assert (
        reasons["Own profile better than another model's layer averages?"] == "the shipped profile is this model's own"
    )


def test_an_arm_answers_as_the_run_s_own_sample_stage(finished):
    """CoKV with its defaults is an arm and a method of the run: the user's path and the check's give one score."""
    records = [r for r in finished.lines("predictions.jsonl") if r["method"] == "cokv"]
    scores = {task: [r["score"] for r in records if r["task"] == task] for task in ("niah_single_1", "vt")}
    assert all(len(values) == 3 for values in scores.values())
    compared = 0
    for line in finished.lines("checks.jsonl"):
        outcomes, expected = line["outcomes"], scores[line["task"]][line["index"]]
        for arm in ("alpha/default", "window/default", "profiles/own", "first_token/prefill", "bits/16"):
            if arm in outcomes:
                assert outcomes[arm]["score"] == expected, (line["task"], arm)
                compared += 1
    assert compared >= 15


def test_equal_bytes_are_measured(finished):
    (row,) = [
        r for r in finished.read("checks.json")["rows"] if r["check"] == "bits" and "bits better than 32" in r["what"]
    ]
    assert row["bytes"]["arm"] == pytest.approx(row["bytes"]["base"], rel=0.06)


def test_a_killed_run_ends_as_an_undisturbed_one(file, finished, tmp_path, monkeypatch):
    """Killed between two samples' answers, with a torn line, and between two blocks of a game."""
    experiment = read_experiment(file)
    from suite.checks import answers, games

    answer_all, one_game_at_a_time = answers.answer_all, games.one_game_at_a_time
    calls = []

    def dying(*given):
        calls.append(given)
        if len(calls) == 4:
            raise Killed
        return answer_all(*given)

    def dying_worker(game_named):
        inner = one_game_at_a_time(game_named)

        def evaluate(block):
            calls.append(block)
            if len(calls) == 3:
                raise Killed
            return inner(block)

        return evaluate

    monkeypatch.setattr(games, "one_game_at_a_time", dying_worker)
    with pytest.raises(Killed):
        run_experiment(experiment, tmp_path)
    monkeypatch.setattr(games, "one_game_at_a_time", one_game_at_a_time)
    calls.clear()
    monkeypatch.setattr(answers, "answer_all", dying)
    with pytest.raises(Killed):
        run_experiment(experiment, tmp_path)
    monkeypatch.setattr(answers, "answer_all", lambda *given: calls.append(given) or answer_all(*given))
    (folder,) = tmp_path.glob("check*-*")
    assert not (folder / "checks.json").exists()
    with (folder / "checks.jsonl").open("ab") as torn:
        torn.write(b'{"setting": "torn')
    calls.clear()
    resumed = run_experiment(experiment, tmp_path)
    assert len(calls) == 3, "three of six samples were answered before"
    assert (resumed.path / "checks.json").read_bytes() == (finished.path / "checks.json").read_bytes()


def test_the_same_rows_come_from_what_is_recorded(finished, monkeypatch):
    """Nothing is evaluated or answered again."""
    from cokv.cluster import InProcess
    from cokv.model.loading import load_model
    from cokv.types import HeadScores
    from suite.checks import answers, games
    from suite.checks.context import Context

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(games, "game_of", fail)
    monkeypatch.setattr(answers, "answer_all", fail)
    experiment = finished_experiment(finished)
    scores = {t: HeadScores.load(finished.path / "head_scores" / f"{t}.safetensors") for t in ("niah_single_1", "vt")}
    context = Context(experiment, load_model(), scores, finished.lines("predictions.jsonl"))
    assert run_checks(context, finished, InProcess()) == finished.read("checks.json")


def finished_experiment(folder):
    spec = json.loads((folder.path / "spec.json").read_text(encoding="utf-8"))["experiment"]
    from suite.spec import Experiment

    return Experiment.model_validate_json(json.dumps({**spec, "name": "checked"}))


def test_the_report_has_the_section(finished):
    from reports import write_report

    folder = write_report(finished.path)
    text = (folder / "tables" / "checks.md").read_text(encoding="utf-8")
    assert text.count("\n| ") > 20 and "1/n" in text
    assert r"\begin{table*}" in (folder / "tables" / "checks.tex").read_text(encoding="utf-8")


def test_another_model_is_named_at_the_command_line(file, tmp_path, capsys):
    experiment = read_experiment(file)
    other = with_model(experiment, name="elsewhere", dtype="bfloat16")
    assert (other.model.name, other.model.dtype, other.model.device) == ("elsewhere", "bfloat16", "cpu")
    assert with_model(experiment) == experiment
    arguments = ["reproduce", "--experiment", str(file), "--runs", str(tmp_path / "runs"), "--dry-run"]
    for wrong, message in (
        (["--model", str(tmp_path / "none")], "none"),
        (["--dtype", "float8"], "dtype: Input should be 'float32', 'bfloat16' or 'float16', got 'float8'"),
    ):
        with pytest.raises(SystemExit) as ended:
            app([*arguments, *wrong])
        err = capsys.readouterr().err
        assert ended.value.code == 2 and message in err and err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[checks]", '[checks]\nrun = ["stabilty"]', "checks.run.0"),
        ("[checks]", '[checks]\ntasks = ["vtt"]', "did you mean vt"),
        ("[checks]", '[checks]\ntasks = ["vt"]\ngame_tasks = ["niah_single_1"]', "game_tasks"),
        ("samples = 3\nkv_budget = 32", "samples = 3\nkv_budget = 0", "checks.kv_budget"),
        ("masked_shares = [0.1, 0.3333]", "masked_shares = [0.1, 0.6]", "checks.masked_shares.1"),
        ("windows = [8, 16, 32]", "windows = [8, 8]", "each once"),
    ],
)
def test_a_mistake_in_the_section_is_named(tmp_path, old, new, message):
    from suite.errors import SuiteError

    path = tmp_path / "wrong.toml"
    path.write_text(EXPERIMENT.replace(old, new), encoding="utf-8")
    with pytest.raises(SuiteError, match=message):
        read_experiment(path)


def test_checks_need_a_game(tmp_path):
    from suite.errors import SuiteError

    path = tmp_path / "wrong.toml"
    start, end = EXPERIMENT.index("[game]"), EXPERIMENT.index("[checks]")
    text = (EXPERIMENT[:start] + EXPERIMENT[end:]).replace(', "cokv"', "")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SuiteError, match=r"\[checks\] needs a \[game\] section"):
        read_experiment(path)


def test_the_plan_counts_what_the_run_then_does(finished, file):
    from cokv.game.ledger import Ledger
    from cokv.model.loading import load_model
    from suite.checks.workload import workload
    from suite.heads.halves import evaluations

    experiment = read_experiment(file)
    work = workload(experiment, load_model())
    removal = {f"{task}/test" for task in work}
    rows = {}
    for path in finished.path.parent.glob("games/*/game.sqlite"):
        with Ledger(path, create=False) as ledger:
            rows |= {game.name: len(game) * game.num_prompts for game in ledger.games() if game.name not in removal}
    before = evaluations(experiment.game, 16) * experiment.game.prompts  # of the head game's own stage
    done = sum(rows.values()) - before * len(work)
    assert sum(task.game_rows for task in work.values()) == pytest.approx(done, rel=0.02)
    answers = sum(len(line["outcomes"]) for line in finished.lines("checks.jsonl"))
    refused = 6  # the window of 32, on three samples of two tasks
    assert sum(task.answer_rows for task in work.values()) == answers + refused


def test_workers_of_the_checks_share_a_machines_memory(file, monkeypatch):
    """Each keeps prefills in its part alone, as workers of the head game do."""
    from suite.checks import games

    experiment, shares = read_experiment(file), []

    def game_of(loaded, prompts, spec, processes):
        shares.append(processes)
        return SimpleNamespace(per_prompt=lambda coalitions: coalitions)

    monkeypatch.setattr(games, "game_of", game_of)
    monkeypatch.setattr(games.CheckGame, "prompts", lambda *_: [])
    game = games.CheckGame("vt", "metric", "compressed")
    games.CheckGamesWorker(experiment, {"vt": game}, processes=3).on(None)(("vt", 0, None))
    assert shares == [3]
