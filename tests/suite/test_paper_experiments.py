"""The papers' experiments: complete files, costs without weights or data, and each run in miniature."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call, refused
from paper_stand_ins import LONG, SHORT, kvpress_rows, longbench_folder, miniature, model_folder

from cokv.methods.registry import get_method
from cokv.model.loading import load_model
from cokv.types import CokvError
from reports import write_report
from reports.reported import published_values
from suite.cli.commands import experiment_of
from suite.cli.rescore import rescore_run
from suite.experiment import run_experiment
from suite.known.gpus import Rates, gpus, measured
from suite.known.models import hub_models
from suite.run.cells import grid_cells
from suite.run.estimate import estimate
from suite.run.published import commands, published_counts
from suite.run.requirements import requirements
from suite.run.task_sizes import task_sizes
from suite.spec import Experiment, LongBenchSpec, read_experiment
from suite.tasks import longbench_tasks

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in (ROOT / "experiments").glob("*.toml") if read_experiment(file).paper is not None)
PAPERS = (
    "cokv-llama3-8b", "cokv-mistral-7b", "cokv-qwen3-32b", "cokv-needle", "lukv-longbench", "lukv-ruler",
    "kvpress-ruler-4k",
)  # fmt: skip
each = pytest.mark.parametrize("name", PAPERS)


def paper(name: str, limit: int | None = None) -> Experiment:
    return read_experiment(ROOT / "experiments" / f"{name}.toml", limit)


@pytest.fixture
def bare_machine(tmp_path, monkeypatch):
    """No weights and no data on this machine, and a working directory with nothing in it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seconds(experiment: Experiment) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in estimate(experiment)}


# Files


def test_these_are_all_files_of_papers() -> None:
    assert sorted(PAPERS) == NAMES


@each
def test_a_file_is_found_by_its_name_and_pins_a_known_model(name, bare_machine) -> None:
    experiment = experiment_of(Path(name))  # the working directory has no such file
    assert experiment.name == name
    assert experiment.model.revision == hub_models()[experiment.model.name].revision
    assert (experiment.model.device, experiment.model.dtype) == ("cuda", "bfloat16")
    assert experiment.paper.sources


def test_hub_models_have_the_parameters_that_their_shape_gives() -> None:
    for model in hub_models().values():
        assert model.parameters == model.parameters_of_shape, model.name
        assert re.fullmatch("[0-9a-f]{40}", model.revision)


# Published values


@each
def test_the_published_values_that_a_file_names_exist(name) -> None:
    experiment = paper(name)
    wanted = {
        value
        for value in published_values()
        for entry in experiment.paper.reported
        if value.paper == entry.paper
        and entry.model in (None, value.model)
        and entry.benchmark in (None, value.benchmark)
    }
    counted = sum(sum(count.budgets.values()) for count in published_counts(experiment))
    assert counted == len(wanted)
    assert counted > 0 or name == "cokv-qwen3-32b"


@each
def test_the_commands_of_a_dry_run_show_its_published_values(name) -> None:
    experiment = paper(name)
    for command, entry in zip(commands(experiment), experiment.paper.reported, strict=True):
        program, *arguments = shlex.split(command)
        result = call(*arguments, "--json")
        assert program == "cokv" and result.exit_code == 0, result.output
        shown = json.loads(result.stdout)
        assert len(shown) >= len(entry.values()) > 0
        models = {row["model"] for row in shown}
        assert {value.model for value in entry.values()} <= models


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('paper = "CoKW"', "did you mean CoKV"),
        ('paper = "CoKV", model = "Llama"', "on model 'Llama'"),
        ('paper = "CoKV", benchmark = "RULER"', "on benchmark 'RULER'"),
    ],
)
def test_published_values_that_do_not_exist_are_refused(change, message, tmp_path) -> None:
    file = tmp_path / "own.toml"
    base = (ROOT / "experiments" / "cokv-llama3-8b.toml").read_text(encoding="utf-8")
    (tmp_path / "base.toml").write_text(base, encoding="utf-8")
    file.write_text(f'extends = "base"\nname = "own"\n[paper]\nreported = [{{ {change} }}]\n', encoding="utf-8")
    assert message in refused(call("reproduce", "--experiment", file, "--dry-run"))
    file.write_text('extends = "base"\nname = "own"\n[paper]\nhardware = "h300"\n', encoding="utf-8")
    assert "unknown GPU 'h300'; did you mean h" in refused(call("reproduce", "--experiment", file, "--dry-run"))


# Costs


def test_rates_are_those_of_the_committed_measurements() -> None:
    for name, part in measured().items():
        if not isinstance(part, dict):
            continue
        value = json.loads((ROOT / part["file"]).read_text(encoding="utf-8"))
        for step in part["path"]:
            value = value[step]
        assert value == part["value"], name
        machine = json.loads((ROOT / part["file"]).read_text(encoding="utf-8"))["machine"]
        assert [gpu["name"] for gpu in machine["gpus"]] == ["NVIDIA H200"]
        assert machine["gpus"][0]["memory_bytes"] == gpus()[measured()["gpu"]].memory_bytes


def test_the_measured_model_on_the_measured_gpu_takes_what_was_measured() -> None:
    facts = measured()
    rates = Rates(hub_models()[facts["model"]], gpus()[facts["gpu"]])
    assert rates.read(8192) == pytest.approx(facts["prefill_seconds"]["value"])
    assert rates.coalition(8192, 32) == pytest.approx(facts["coalition_ms"]["value"] / 1000)
    assert rates.step() == pytest.approx(facts["step_ms"]["value"] / 1000)


def test_larger_models_longer_prompts_and_slower_memory_take_longer() -> None:
    llama, qwen = hub_models()["meta-llama/Meta-Llama-3-8B-Instruct"], hub_models()["Qwen/Qwen3-32B"]
    h200, h100 = Rates(llama, gpus()["h200"]), Rates(llama, gpus()["h100"])
    big = Rates(qwen, gpus()["h200"])
    for better, worse in ((h200, big), (h200, h100)):
        assert better.read(8000) <= worse.read(8000)
        assert better.coalition(8000, 32) < worse.coalition(8000, 32)
        assert better.step() <= worse.step()
    assert h200.read(16000) > 2 * h200.read(8000), "attention grows with the square"
    assert h200.coalition(8000, 64) == pytest.approx(2 * h200.coalition(8000, 32))


@pytest.mark.parametrize("name", ["kvpress-ruler-4k", "lukv-ruler"])
def test_twice_the_samples_take_twice_the_hours(name) -> None:
    few, many = seconds(paper(name, limit=100))["samples"], seconds(paper(name, limit=200))["samples"]
    assert many == pytest.approx(2 * few)


@each
def test_rows_are_samples_times_methods_and_budgets(name) -> None:
    experiment = paper(name)
    (stage,) = [stage for stage in estimate(experiment) if stage.name == "samples"]
    budgets, methods = len(experiment.kv_budgets), grid_cells(experiment)
    without = [cell for cell in methods if cell.kv_budget is None]
    assert len(methods) == (len(experiment.methods) - len(without)) * budgets + len(without)
    assert stage.rows == stage.prompts * len(methods)
    assert stage.prompts == sum(task.samples for task in task_sizes(experiment))
    assert requirements(experiment).records == stage.rows


def test_the_game_of_cokv_has_the_papers_coalitions() -> None:
    (game,) = [stage for stage in estimate(paper("cokv-llama3-8b")) if stage.name == "head game"]
    sizes = task_sizes(paper("cokv-llama3-8b"))
    prompts = sum(min(75, size.validation) for size in sizes)
    assert prompts == 13 * 30 + 22 + 2 * 75, "15 % of each set"
    removal = sum(min(170, size.samples) for size in sizes)
    # 250 coalitions of four sizes with their complements; two or three may be drawn twice
    assert 0.999 < (game.rows - 6 * removal) / (prompts * 250 * 4 * 2) <= 1


@pytest.mark.skipif("COKV_TEST_DATA" not in os.environ, reason="needs COKV_TEST_DATA, a folder with minilongbench/")
def test_sizes_without_the_data_are_those_with_them() -> None:
    folder = Path(os.environ["COKV_TEST_DATA"]) / "minilongbench"
    tasks = ("narrativeqa", "qasper", "multifieldqa_en", "lcc", "dureader")
    values = {"tasks": tasks, "templates": "none", "subset": "mini", "data": str(folder)}
    spec = LongBenchSpec(**values)
    base = paper("cokv-llama3-8b")
    experiment = base.model_copy(update={"longbench": spec, "game": None, "checks": None})
    for size in task_sizes(experiment):
        assert size.samples == longbench_tasks.test_count(spec, size.name)
        assert size.validation == longbench_tasks.validation_count(spec, size.name)


@each
def test_memory_and_disk_follow_from_the_shape(name, bare_machine) -> None:
    experiment = paper(name)
    needs, model = requirements(experiment, bare_machine), hub_models()[experiment.model.name]
    assert needs.weights_bytes == 2 * model.parameters
    assert needs.kv_bytes_per_token == 2 * 2 * model.layers * model.kv_heads * model.head_dim
    assert needs.weights_bytes + needs.kv_bytes_per_token * needs.prompt_tokens < needs.peak_bytes
    assert needs.peak_bytes < needs.hardware.memory_bytes, "it fits the GPU that it is sized for"
    assert needs.storage_bytes == needs.weights_bytes + needs.run_bytes
    kinds = [lack.kind for lack in needs.missing]
    assert kinds[0] == "weights" and "data" in kinds
    assert f"hf download {model.name} --revision {model.revision}" in needs.missing[0].remedy
    assert all("\n" not in lack.remedy and lack.remedy for lack in needs.missing)


@each
def test_prompts_with_their_answers_fit_the_models_positions(name) -> None:
    experiment = paper(name)
    positions = max(hub_models()[experiment.model.name].positions, experiment.model.positions or 0)
    for size in task_sizes(experiment):
        answer = 0 if experiment.needle or experiment.ruler else size.new_tokens  # their lengths count it
        assert (size.longest or size.length) + answer <= positions, size.name
    if experiment.measure is not None:
        assert experiment.measure.prompt_tokens + experiment.measure.new_tokens <= positions


def test_a_model_may_be_run_past_the_positions_of_its_config_and_every_record_says_so(tmp_path) -> None:
    folder = model_folder("Qwen/Qwen3-8B", tmp_path / "model", layers=2)
    stated = load_model(str(folder))
    positions = stated.shape.context_length + 64
    more = load_model(str(folder), positions=positions)
    assert more.shape.context_length == positions and f"run with {positions} positions" in more.notes[-1]
    assert more.identity() == {**stated.identity(), "positions": positions}
    fewer = load_model(str(folder), positions=16)
    assert fewer.identity() == stated.identity() and fewer.notes == stated.notes, "16 are at least there"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CokvError, match="rotary embedding of kind 'dynamic', which changes with them"):
        load_model(str(folder), positions=positions)


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda file: file.stem)
def test_requirements_of_every_shipped_experiment_can_be_said(file, bare_machine) -> None:
    experiment = read_experiment(file)
    needs = requirements(experiment, bare_machine)
    assert needs.weights_bytes is not None and needs.records > 0 and needs.run_bytes > 0
    assert (needs.peak_bytes is None) == (needs.kv_bytes_per_token is None), "known with the model's shape"
    assert all(lack.what and lack.remedy for lack in needs.missing)


def test_what_ships_is_not_missing(tmp_path) -> None:
    needs = requirements(read_experiment(ROOT / "experiments" / "embedded.toml"), tmp_path)
    assert [lack.kind for lack in needs.missing] == []
    assert needs.parameters is not None and needs.weights_bytes == 4 * needs.parameters
    assert needs.hardware is None


# The command line


@each
def test_a_dry_run_needs_neither_weights_nor_data(name, bare_machine) -> None:
    result = call("reproduce", "--experiment", name, "--dry-run", "--runs", bare_machine / "runs")
    assert result.exit_code == 0, result.output
    model = hub_models()[paper(name).model.name]
    for expected in ("samples", "at most on one NVIDIA H200", "measured on", "GPU memory", "disk:", "hf download"):
        assert expected in result.stdout
    assert f"the weights of {model.name}" in result.stdout
    values = re.search(r"(\d+) published values to stand beside", result.stdout)
    assert (values is None) == (name == "cokv-qwen3-32b")
    assert name == "cokv-qwen3-32b" or "  cokv reported --paper " in result.stdout
    assert not (bare_machine / "runs").exists()


def test_without_weights_a_run_is_refused_in_one_line_that_says_how_to_get_them(bare_machine) -> None:
    message = refused(call("reproduce", "--experiment", "cokv-llama3-8b", "--runs", bare_machine / "runs"))
    assert "hf download meta-llama/Meta-Llama-3-8B-Instruct --revision 8afb486c" in message
    assert "hf download THUDM/LongBench data.zip" in message and "dataset2prompt.json" in message
    assert not (bare_machine / "runs").exists()


@pytest.mark.slow
def test_an_empty_machine_without_a_hub_says_the_same(tmp_path) -> None:
    """In a process of its own, for the hub's client reads its settings once."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "suite.cli", "reproduce", "--experiment", "kvpress-ruler-4k"]
    dry = subprocess.run([*command, "--dry-run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    assert "simonjegou/ruler at 24adceac" in dry.stdout
    real = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert real.returncode == 2
    (line,) = real.stderr.strip().splitlines()
    assert line.startswith("cokv: not on this machine: the weights of Qwen/Qwen3-8B, get it with: hf download Qwen/")


def test_the_recipe_for_lm_eval_runs_every_method_with_its_parameters(tmp_path) -> None:
    """Against a program that writes down its arguments: lm-eval itself has an environment of its own."""
    program = tmp_path / "cokv"
    program.write_text(
        f'#!/bin/sh\nfor a in "$@"; do echo "$a"; done >> {tmp_path}/called; echo >> {tmp_path}/called\n'
    )
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "COKV_SCORES": "c.npy", "HEADKV_SCORES": "h.json"}
    script = ROOT / "experiments" / "cokv-gsm8k-math.sh"
    subprocess.run(["sh", script, tmp_path / "out"], env=environment, check=True)
    calls = [block.split("\n") for block in (tmp_path / "called").read_text(encoding="utf-8").strip().split("\n\n")]
    names = []
    for lines in calls:
        assert lines[:3] == ["lm-eval", "--model", "cokv"]
        options = dict(itertools.pairwise(lines))
        assert options["--tasks"] == "gsm8k,minerva_math" and options["--num_fewshot"] == "5"
        values = dict(pair.split("=", 1) for pair in options["--model_args"].split(","))
        assert (values["pretrained"], values["revision"]) == ("Qwen/Qwen3-32B", hub_models()["Qwen/Qwen3-32B"].revision)
        own = {key: int(values[key]) for key in ("window_size", "kernel_size") if key in values}
        method = get_method(values["method"], values.get("preset", "normalized"), **own)
        assert method.needs_profile == ("profile" in values) and method.takes_budget == ("kv_budget" in values)
        names.append(method.name)
    assert names == ["full", "snapkv", "pyramidkv", "adakv", "headkv_r2", "cokv"]


# Runs in miniature


@pytest.mark.slow
@each
def test_an_experiment_runs_end_to_end_in_miniature(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("suite.tasks.ruler_tasks.read_rows", kvpress_rows)
    experiment = paper(name)
    # Slice sizes are of the model's own heads; without a game, fewer layers do.
    model = model_folder(experiment.model.name, tmp_path / "model", layers=None if experiment.game else 3)
    shares = any(isinstance(budget, str) for budget in experiment.kv_budgets)
    small = miniature(experiment, model, longbench_folder(tmp_path / "data", LONG if shares else SHORT))
    folder = run_experiment(small, tmp_path / "runs")
    records = folder.lines("predictions.jsonl")
    assert {record["task"] for record in records} == {task for part in small.benchmarks for task in part.tasks}
    cells = grid_cells(small)
    assert len(records) == len(cells) * sum(len(part.tasks) for part in small.benchmarks)
    got = {(record["method"], record["preset"].partition(" ")[0]) for record in records}
    assert {(cell.method.name, cell.method.preset) for cell in cells} <= got | {
        (n, p.partition("(")[0]) for n, p in got
    }
    needs_none = [record for record in records if record["method"] in ("full", "snapkv", "knorm", "adakv")]
    assert needs_none and all(record["score"] is not None for record in needs_none), "only profiles may be lacking"
    for part in ("stability.json",) if small.game else ():
        assert (folder.path / part).is_file()
    assert (folder.path / "checks.json").is_file() == (small.checks is not None)
    assert (folder.path / "measurements.json").is_file() == (small.measure is not None)
    report = write_report(folder.path)
    assert (report / "needle_grid.png").is_file() == (small.needle is not None)
    assert rescore_run(folder.path)["changed"] == []
