"""Needles in the suite: prompts as long as their task says, apart from the game's, at the depths of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import call, refused

from cokv.model.loading import load_model
from ruler.grid import DOLORES_PARK, LIGHTHOUSE
from suite.spec import read_experiment
from suite.tasks.benchmarks import test_count as count_of_tests
from suite.tasks.benchmarks import test_prompts as prompts_of_tests
from suite.tasks.benchmarks import validation_prompts

FILE = """
name = "needles"
methods = ["full", "snapkv"]
kv_budgets = [64]

[method_defaults]
window_size = 8

[needle]
tasks = {tasks}
{more}
"""


@pytest.fixture
def file(tmp_path):
    def write(tasks: list[str], more: str = "") -> Path:
        path = tmp_path / "needles.toml"
        path.write_text(FILE.format(tasks=tasks, more=more), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def loaded():
    return load_model()


@pytest.mark.parametrize("aware", [True, False])
def test_prompts_are_as_long_as_their_task_says_and_hide_the_needle_at_every_depth(file, loaded, aware) -> None:
    experiment = read_experiment(file(["needle_300", "needle_0600"]))
    experiment = experiment.model_copy(
        update={"protocol": experiment.protocol.model_copy(update={"query_aware": aware})}
    )
    for task, length in (("needle_300", 300), ("needle_0600", 600)):
        prompts = list(prompts_of_tests(experiment, loaded, task, 0))
        assert [prompt.groups["depth"] for prompt in prompts] == [
            "0",
            "11",
            "22",
            "33",
            "44",
            "56",
            "67",
            "78",
            "89",
            "100",
        ]
        for prompt in prompts:
            tokens = prompt.prompt_tokens + prompt.stop.max_new_tokens
            assert length - 20 < tokens <= length, "a word more would not fit"
            assert (prompt.question_ids is None) is aware
            assert prompt.metric(prompt.gold, prompt.references) == 100


def test_the_game_plays_on_another_needle_at_depths_between(file, loaded) -> None:
    experiment = read_experiment(file(["needle_600"]))
    (text, *_) = (
        loaded.tokenizer.decode(p.context_ids) for p in validation_prompts(experiment, loaded, "needle_600", 3)
    )
    tested = loaded.tokenizer.decode(next(prompts_of_tests(experiment, loaded, "needle_600", 0)).context_ids)
    hidden, asked = LIGHTHOUSE.answer.split()[-1], DOLORES_PARK.answer.split()[-1]
    assert hidden != asked and DOLORES_PARK.sentence not in text and LIGHTHOUSE.sentence not in tested


def test_a_limit_takes_depths_evenly(file) -> None:
    path = file(["needle_300"])
    for limit, depths in ((1, (0,)), (2, (0, 56)), (5, (0, 22, 44, 67, 89)), (50, tuple(read_depths(path)))):
        experiment = read_experiment(path, limit)
        assert experiment.needle is not None and experiment.needle.chosen_depths == depths
        assert count_of_tests(experiment, "needle_300") == len(depths)


def read_depths(path: Path) -> list[int]:
    needle = read_experiment(path).needle
    assert needle is not None
    return list(needle.depths)


@pytest.mark.parametrize(
    ("tasks", "more", "message"),
    [
        (["needle_4k"], "", "unknown task 'needle_4k'; expected needle_ and a length in tokens"),
        (["needle_400", "needle_0400"], "", "each once"),
        (["needle_400"], "depths = [0, 101]", "less than or equal to 100"),
        (["needle_400"], 'essays = "nowhere"', "no .txt file in the essay folder nowhere"),
        (["needle_40"], "", "question alone takes more than 40 tokens, 30 of them for the answer"),
        (["needle_99999"], "", "[needle] tasks names a length of 99999, the model has"),
    ],
)
def test_what_cannot_be_asked_is_one_line(file, tmp_path, tasks, more, message) -> None:
    assert message in refused(call("reproduce", "--experiment", file(tasks, more), "--runs", tmp_path / "runs"))


def test_tasks_lists_needles() -> None:
    result = call("tasks", "--benchmark", "needle")
    assert result.exit_code == 0 and "needle_TOKENS" in result.stdout and "ruler" not in result.stdout
