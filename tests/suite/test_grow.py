"""A run that grows computes only what is new, and ends in what one run of the whole gives; one that shrinks computes
nothing. On the embedded model, whose answers are right often enough to tell them apart.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.experiment import run_experiment
from suite.run.folder import RunFolder
from suite.run.stored_answers import FIELDS, OTHERS, PREDICTIONS
from suite.spec import read_experiment

BASE = """
name = "grow"
methods = ["full", "streamingllm", "cokv"]
kv_budgets = [24]
seeds = [0]

[method_defaults]
window_size = 8

[ruler]
preset = "mini"
length = 200
samples = 2
tasks = ["niah_single_1"]

[game]
prompts = 1
first_token = "compressed"
slice_sizes = [8]
coalitions_per_size = 6
removal_samples = 1

[measure]
kv_budget = 16
prompt_tokens = 64
new_tokens = 2
repeats = 1
"""
GROWTH = {
    "a method": ('"streamingllm", ', '"snapkv", "streamingllm", '),
    "a budget": ("kv_budgets = [24]", 'kv_budgets = [32, 24, "20%"]'),
    "a sample": ("samples = 2\ntasks", "samples = 4\ntasks"),
    "a seed": ("seeds = [0]", "seeds = [0, 1]"),
    "a task": ('["niah_single_1"]', '["vt", "niah_single_1"]'),
}


class Counting:
    """One process; stops as a kill does after some samples, and counts those that it decodes."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.kill_after, self.samples, self.cells, self.coalitions = kill_after, 0, 0, 0

    def map_blocks(self, make_worker, blocks):
        worker = make_worker("cpu") if blocks else None
        for index, block in enumerate(blocks):
            result = worker(block)
            if isinstance(result[0], tuple):  # a sample
                if result[1] and self.samples == self.kill_after:
                    raise KeyboardInterrupt
                self.samples += bool(result[1])
                self.cells += len(result[1])
            else:
                self.coalitions += len(result[1])
            yield index, result


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def run(text: str, folder: Path, pool: Counting | None = None) -> RunFolder:
    return run_experiment(read_experiment(write(folder.with_suffix(".toml"), text)), folder, pool or Counting())


def grown(growth: str) -> str:
    old, new = GROWTH[growth]
    assert BASE.count(old) == 1
    return BASE.replace(old, new)


def answers(folder: RunFolder) -> list[dict[str, Any]]:
    return folder.lines(PREDICTIONS)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("base") / "runs"
    run(BASE, runs)
    return runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The runs of the whole, each in a folder of its own."""
    finished: dict[str, RunFolder] = {}

    def of(growth: str) -> RunFolder:
        if growth not in finished:
            finished[growth] = run(grown(growth), tmp_path_factory.mktemp("whole") / "runs")
        return finished[growth]

    return of


@pytest.fixture
def runs(base, tmp_path) -> Path:
    shutil.copytree(base, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.parametrize("growth", GROWTH)
def test_a_grown_run_computes_what_is_new_and_equals_a_run_of_the_whole(runs, whole, growth):
    before = {line for path in runs.glob(f"*/{PREDICTIONS}") for line in path.read_bytes().splitlines()}
    counted = Counting()
    folder = run(grown(growth), runs, counted)
    assert len(list(runs.glob("grow-*"))) == 1, "the same folder"
    after = set((folder.path / PREDICTIONS).read_bytes().splitlines())
    assert before < after and counted.cells == len(after) - len(before)
    assert answers(folder) == answers(whole(growth)), "records in the order of the whole"
    for name in ("metrics.json", "stability.json"):
        assert (folder.path / name).read_bytes() == (whole(growth).path / name).read_bytes()
    assert not (folder.path / OTHERS).exists()


@pytest.mark.parametrize("growth", GROWTH)
def test_what_is_no_longer_asked_for_is_kept_and_not_reported(runs, growth):
    small = {path.name: path.read_bytes() for path in next(runs.glob("grow-*")).iterdir() if path.is_file()}
    folder = run(grown(growth), runs)
    large = {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}
    for text, files in ((BASE, small), (grown(growth), large)):
        counted = Counting()
        folder = run(text, runs, counted)
        assert counted.samples == counted.coalitions == 0
        for name in (PREDICTIONS, "metrics.json", "stability.json", "spec.json", "done.json", "measurements.json"):
            assert (folder.path / name).read_bytes() == files[name], name
        stored = [*answers(folder), *folder.lines(OTHERS)]
        assert len({tuple(r[f] for f in FIELDS) for r in stored}) == len(stored) == large[PREDICTIONS].count(b"\n")


@pytest.mark.parametrize("growth", GROWTH)
def test_a_killed_growth_goes_on(runs, whole, growth):
    with pytest.raises(KeyboardInterrupt):
        run(grown(growth), runs, Counting(kill_after=1))
    (path,) = runs.glob("grow-*")
    assert not (path / "done.json").exists()
    counted = Counting()
    folder = run(grown(growth), runs, counted)
    assert answers(folder) == answers(whole(growth))
    assert (folder.path / "metrics.json").read_bytes() == (whole(growth).path / "metrics.json").read_bytes()


def test_a_changed_game_answers_again_only_what_its_scores_decide(runs):
    before = next(runs.glob(f"*/{PREDICTIONS}")).read_bytes()
    counted = Counting()
    folder = run(BASE.replace("coalitions_per_size = 6", "coalitions_per_size = 9"), runs, counted)
    assert counted.cells == counted.samples == 2, "CoKV on two samples"
    assert {r["method"] for r in folder.lines(OTHERS)} == {"cokv"}
    counted = Counting()
    folder = run(BASE, runs, counted)
    assert counted.cells == counted.coalitions == 0 and (folder.path / PREDICTIONS).read_bytes() == before


def test_measurements_are_made_again_where_they_were_asked_otherwise(runs):
    (path,) = runs.glob("grow-*")
    first = (path / "measurements.json").read_bytes()
    folder = run(BASE.replace("new_tokens = 2", "new_tokens = 3"), runs)
    assert {row["generated_tokens"] for row in folder.read("measurements.json")["decode"]} == {3}
    without, _ = BASE.split("[measure]")
    folder = run(without, runs)
    assert folder.read("measurements.json") is None
    folder = run(BASE, runs)
    assert (path / "measurements.json").read_bytes() == first


def test_a_description_or_a_block_size_computes_nothing(runs):
    counted = Counting()
    text = BASE.replace('name = "grow"', 'name = "grow"\ndescription = "new words"')
    folder = run(text.replace("prompts = 1", "prompts = 1\nblock_size = 2"), runs, counted)
    assert counted.samples == counted.coalitions == 0
    spec = json.loads((folder.path / "spec.json").read_text())
    assert spec["about"]["description"] == "new words"


def test_a_run_that_goes_on_elsewhere_says_so_and_names_both(runs, capsys):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        folder = run(grown("a budget"), runs)
    finally:
        torch.set_num_threads(before)
    lines = [line for line in capsys.readouterr().err.splitlines() if "computed so far" in line]
    assert len(lines) == 1 and f"{before} thread" in lines[0] and f"{before + 1} threads" in lines[0]
    machines = [{"device": "cpu", "threads": number} for number in (before, before + 1)]
    assert folder.read("spec.json")["machines"] == machines
