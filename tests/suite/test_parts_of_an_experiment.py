"""Parts of an experiment: some of its tasks, games of some tasks, sizes as shares, shorter answers, rounds."""

from pathlib import Path

import numpy as np
import pytest
from small_experiment import GOOD

from cokv.model.loading import load_model
from cokv.types import HeadScores
from suite.errors import SuiteError
from suite.experiment import run_experiment
from suite.heads.halves import plans
from suite.profiles.run_profiles import Profiles
from suite.profiles.shapley_by_task import shapley_by_task
from suite.run.samples import in_rounds
from suite.spec import Experiment, read_experiment, with_tasks
from suite.tasks.benchmarks import test_prompts as prompts_of

GAME = """
[game]
slice_sizes = ["1/4", "1/2"]
coalitions_per_size = 4
draws = "balanced"
utility = "probability"
prompts = 1
removal_samples = 1
"""
METHODS = 'methods = ["full", "snapkv"]'
TASKS = 'tasks = ["niah_single_1"]'


def read(tmp_path: Path, *changes: tuple[str, str], more: str = "") -> Experiment:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "experiment.toml"
    path.write_text(text + more, encoding="utf-8")
    return read_experiment(path)


def test_shares_of_the_players_fit_any_model(tmp_path):
    game = read(tmp_path, more=GAME).game
    assert game is not None
    assert game.sizes_of(90) == (22, 45) and game.sizes_of(16) == (4, 8)
    for num_players in (16, 90):
        sizes = {int(size) for size in plans(game, num_players)[0].coalitions.sum(axis=1)}
        assert {min(size, num_players - size) for size in sizes} == set(game.sizes_of(num_players))


@pytest.mark.parametrize("share", ['"5/4"', '"a"', '"1/0"', "0", "-3"])
def test_what_is_no_share_is_named(tmp_path, share):
    with pytest.raises(SuiteError, match=r"game\.slice_sizes\.0.*expected a number of players, or a share of them"):
        read(tmp_path, more=GAME.replace('"1/4"', share))


def test_a_game_of_a_task_that_is_not_run_is_named(tmp_path):
    with pytest.raises(SuiteError, match=r"\[game\] tasks names 'vt'"):
        read(tmp_path, more=GAME + 'tasks = ["vt"]')


def test_only_the_named_tasks_have_a_game_and_the_others_use_their_mean(tmp_path):
    tasks = (TASKS, 'tasks = ["niah_single_1", "vt", "niah_single_2"]')
    experiment = read(
        tmp_path,
        (METHODS, 'methods = ["cokv"]'),
        tasks,
        ("samples = 3", "samples = 1"),
        more=GAME + 'tasks = ["niah_single_1", "vt"]',
    )
    folder = run_experiment(experiment, tmp_path / "runs")
    assert {file.stem for file in (folder.path / "head_scores").glob("*.safetensors")} == {"niah_single_1", "vt"}
    records = {record["task"]: record for record in folder.lines("predictions.jsonl")}
    assert set(records) == {"niah_single_1", "vt", "niah_single_2"}
    assert len({record["cell"] for record in records.values()}) == 3  # three profiles


def test_tasks_without_a_game_use_the_mean_or_the_file(tmp_path):
    experiment = read(tmp_path, (TASKS, 'tasks = ["niah_single_1", "vt", "cwe"]'))
    played = {task: HeadScores(np.full((4, 4), value), {}) for task, value in {"vt": 1.0, "cwe": 2.0}.items()}
    scores = shapley_by_task(experiment, played, Profiles())
    assert scores["vt"] is played["vt"] and (scores["niah_single_1"].values == 1.5).all()
    file = HeadScores(np.ones((4, 4)), {})
    assert shapley_by_task(experiment, played, Profiles({"cokv": file}))["niah_single_1"] is file
    assert shapley_by_task(experiment, {}, Profiles()) == {}


def test_a_tasks_own_scores_come_before_a_file_where_games_are_named(tmp_path):
    tasks = (TASKS, 'tasks = ["niah_single_1", "vt"]')
    small = ("samples = 3", "samples = 1")
    profile = '\n[profiles]\ncokv = "embedded/cokv"\n'
    named = GAME + 'tasks = ["vt"]\n' + profile

    def cells(name: str, more: str) -> dict[str, str]:
        experiment = read(tmp_path, (METHODS, 'methods = ["cokv"]'), tasks, small, more=more)
        records = run_experiment(experiment, tmp_path / name).lines("predictions.jsonl")
        return {record["task"]: record["cell"] for record in records}

    of_file, of_both = cells("file", profile), cells("both", named)
    assert of_both["niah_single_1"] == of_file["niah_single_1"]
    assert of_both["vt"] != of_file["vt"]


def test_profiles_that_do_not_ship_are_computed_only_where_the_file_says_so(tmp_path, random_model, capsys):
    changes = [(METHODS, 'methods = ["cokv", "razorattention"]'), ("samples = 3", "samples = 1")]
    changes.append(('name = "tiny"', f'name = "tiny"\nmodel = {{ name = "{random_model}" }}'))
    experiment = read(tmp_path, *changes, more=GAME + '\n[profiles]\nsource = "shipped_or_computed"\nperiod = 16\n')
    run_experiment(experiment, tmp_path / "runs")
    assert "no profile of razorattention ships with this model; computing it" in capsys.readouterr().err
    with pytest.raises(SuiteError, match=r"cokv needs head scores, and none ship with model .*; add a .game. section"):
        run_experiment(experiment.model_copy(update={"game": None}), tmp_path / "runs")
    with pytest.raises(SuiteError, match="no profiles ship with model"):
        run_experiment(
            experiment.model_copy(update={"profiles": experiment.profiles.model_copy(update={"source": "shipped"})}),
            tmp_path / "runs",
        )


def test_shorter_answers_end_there_and_the_record_says_so(tmp_path):
    loaded = load_model()
    (whole,) = prompts_of(read(tmp_path, ("samples = 3", "samples = 1")), loaded, "niah_single_1", 0)
    (short,) = prompts_of(
        read(tmp_path, ("samples = 3", "samples = 1\nmax_new_tokens = 5")), loaded, "niah_single_1", 0
    )
    (longer,) = prompts_of(
        read(tmp_path, ("samples = 3", "samples = 1\nmax_new_tokens = 999")), loaded, "niah_single_1", 0
    )
    assert short.context_ids.equal(whole.context_ids)  # the prompt is the official one
    assert (whole.stop.max_new_tokens, short.stop.max_new_tokens, longer.stop.max_new_tokens) == (12, 5, 12)
    assert "answers of at most 5 tokens, not 12" in short.notes
    assert longer.notes == whole.notes


def test_some_tasks_of_an_experiment(tmp_path):
    tasks = (TASKS, 'tasks = ["niah_single_1", "vt", "cwe"]')
    whole = read(tmp_path, tasks, more=GAME + 'tasks = ["vt"]\n[checks]\ntasks = ["vt", "cwe"]\n')
    assert with_tasks(whole, []) is whole
    one = with_tasks(whole, ["vt"])
    assert one.ruler is not None and one.ruler.tasks == ("vt",) and one.game is not None and one.checks is not None
    assert one.checks.tasks == ("vt",)
    other = with_tasks(whole, ["niah_single_1"])
    assert other.game is None and other.checks is None
    with pytest.raises(SuiteError, match=r"'niah_single_3' is not in experiment 'tiny'; did you mean niah_single_1"):
        with_tasks(whole, ["niah_single_3"])
    with pytest.raises(SuiteError, match=r"on cwe: .*cokv needs head scores"):
        with_tasks(read(tmp_path, tasks, (METHODS, 'methods = ["cokv"]'), more=GAME + 'tasks = ["vt"]'), ["cwe"])


def test_rounds_take_every_task_in_turn_and_keep_each_tasks_order():
    blocks = [("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("b", 0, 0), ("c", 0, 0), ("c", 0, 1)]
    rounds = in_rounds(blocks)
    assert rounds == [("a", 0, 0), ("b", 0, 0), ("c", 0, 0), ("a", 0, 1), ("c", 0, 1), ("a", 1, 0)]
    assert sorted(rounds) == sorted(blocks)
