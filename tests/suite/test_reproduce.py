"""The main job on a random model: it runs whole, spends exact totals, and a killed run resumes to the same bytes."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cokv.cluster import Pool
from cokv.cluster.processes import Processes
from suite.experiment import open_run, run_experiment
from suite.run.folder import RunFolder
from suite.spec import read_experiment

ANSWERS = ("metrics.json", "stability.json", "predictions.jsonl")


def run(experiment_file: Path, runs: Path, pool: Pool | None = None) -> RunFolder:
    return run_experiment(read_experiment(experiment_file), runs, pool)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ANSWERS}


def test_every_cell_has_a_record_and_spends_its_total(experiment_file, tmp_path):
    folder = run(experiment_file, tmp_path / "runs")
    records = folder.lines("predictions.jsonl")
    cells = 1 + 3 * 2  # full, and three methods at two budgets
    assert len(records) == 2 * 2 * 2 * cells  # tasks, seeds, samples
    heads, token_bytes = 2 * 2, 2 * 8 * 4
    for record in records:
        slots = record["kv_budget"] or record["prompt_tokens"]
        if "unsupported" in record:  # random weights, which answer all of a task wrong
            assert record["method"] == "cokv" and "no valid profile: all heads have the same" in record["unsupported"]
            continue
        assert record["kept_tokens"] == slots * heads
        assert record["kept_bytes"] == slots * heads * token_bytes
        assert record["full_bytes"] == record["prompt_tokens"] * heads * token_bytes
        assert 0 <= record["score"] <= 100
    assert json.loads((folder.path / "done.json").read_text())["records"] == len(records)


def test_a_finished_run_is_left_alone(experiment_file, tmp_path):
    folder = run(experiment_file, tmp_path / "runs")
    before = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.path.iterdir() if f.is_file()}
    again = run(experiment_file, tmp_path / "runs")
    assert again.path == folder.path
    assert {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.path.iterdir() if f.is_file()} == before


def test_a_torn_file_resumes_to_the_same_answers(experiment_file, tmp_path):
    folder = run(experiment_file, tmp_path / "runs")
    whole = contents(folder.path)
    for name in ("done.json", "metrics.json"):
        (folder.path / name).unlink()
    file = folder.path / "predictions.jsonl"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert contents(run(experiment_file, tmp_path / "runs").path) == whole


@pytest.mark.slow
def test_workers_write_the_files_of_one_process(experiment_file, tmp_path):
    """Two of them, first for all of a run, then for what a kill has left of one."""
    whole = contents(run(experiment_file, tmp_path / "one").path)
    two = Processes(2, threads=torch.get_num_threads())
    folder = run(experiment_file, tmp_path / "two", two)
    assert contents(folder.path) == whole
    for name in ("done.json", "metrics.json"):
        (folder.path / name).unlink()
    file = folder.path / "predictions.jsonl"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert contents(run(experiment_file, tmp_path / "two", two).path) == whole


class Backwards:
    """A pool that ends with the first block."""

    def map_blocks(self, make_worker, blocks):
        worker = make_worker("cpu") if blocks else None
        yield from ((index, worker(block)) for index, block in reversed(list(enumerate(blocks))))


def test_the_order_in_which_workers_end_changes_no_file(experiment_file, tmp_path):
    whole = contents(run(experiment_file, tmp_path / "one").path)
    assert contents(run(experiment_file, tmp_path / "two", Backwards()).path) == whole


def test_blocks_missing_from_the_ledger_are_evaluated_again(experiment_file, tmp_path):
    folder = run(experiment_file, tmp_path / "runs")
    whole = contents(folder.path)
    for name in ("done.json", "metrics.json", "stability.json", "predictions.jsonl"):
        (folder.path / name).unlink()
    for ledger in (tmp_path / "runs" / "games").glob("*/game.sqlite"):
        with sqlite3.connect(ledger) as connection:
            assert connection.execute("DELETE FROM utility").rowcount > 0
    assert contents(run(experiment_file, tmp_path / "runs").path) == whole


def test_a_half_recorded_sample_gets_the_cells_that_it_lacks(experiment_file, tmp_path):
    folder = run(experiment_file, tmp_path / "runs")
    whole = contents(folder.path)
    for name in ("done.json", "metrics.json"):
        (folder.path / name).unlink()
    file = folder.path / "predictions.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: 7 + 3]))  # one whole sample of seven cells, and three cells of the next
    assert contents(run(experiment_file, tmp_path / "runs").path) == whole


def test_a_question_can_arrive_on_the_compressed_cache(experiment_file, tmp_path):
    experiment_file.write_text(experiment_file.read_text() + "\n[protocol]\nquery_aware = false\n")
    records = run(experiment_file, tmp_path / "runs").lines("predictions.jsonl")
    assert all(r["query_aware"] is False and r["first_token"] == "compressed" for r in records)
    full = [r for r in records if r["method"] == "full"]
    assert all(r["kept_tokens"] < r["prompt_tokens"] * 4 for r in full)  # the question comes after


def test_the_users_own_essays_are_part_of_a_runs_identity(experiment_file, tmp_path):
    essays = tmp_path / "essays"
    essays.mkdir()
    text = experiment_file.read_text().replace(
        'tasks = ["niah_single_1", "vt"]', f'tasks = ["niah_single_2"]\nessays = "{essays}"'
    )
    experiment_file.write_text(text)
    names = set()
    for words in ("The sea is wide. ", "The hill is high. "):
        (essays / "one.txt").write_text(words * 40)
        names.add(open_run(read_experiment(experiment_file), tmp_path / "runs")[0].path.name)
    assert len(names) == 2


def test_where_the_users_texts_are_stored_is_not_part_of_a_runs_identity(experiment_file, tmp_path):
    text, names = experiment_file.read_text(), set()
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.txt").write_text("The sea is wide. " * 40)
        experiment_file.write_text(text.replace("[ruler]", f'[ruler]\nessays = "{tmp_path / folder}"'))
        names.add(open_run(read_experiment(experiment_file), tmp_path / "runs")[0].path.name)
    assert len(names) == 1


def test_where_the_model_is_stored_and_what_the_run_is_called_are_not_part_of_its_identity(experiment_file, tmp_path):
    text, hashes = experiment_file.read_text(), set()
    (model,) = re.findall(r'name = "(/.*)"', text)
    for copy in ("one", "two"):
        shutil.copytree(model, tmp_path / copy)
        experiment_file.write_text(text.replace(model, str(tmp_path / copy)).replace('"tiny"', f'"tiny-{copy}"'))
        folder, _ = open_run(read_experiment(experiment_file), tmp_path / "runs")
        folder.open()
        about = folder.read("spec.json")["about"]
        assert about.pop("titles")["cokv"] == "CoKV"
        assert {entry["method"] for entry in about.pop("variants")} == {"full", "streamingllm", "snapkv", "cokv"}
        assert about == {"name": f"tiny-{copy}", "description": "", "model": str(tmp_path / copy)}
        hashes.add(folder.hash)
    assert len(hashes) == 1


def test_stages_are_timed(experiment_file, tmp_path):
    folder = run(experiment_file, tmp_path / "runs")
    stages = folder.lines("stages.jsonl")
    assert [s["stage"] for s in stages] == ["head game", "profiles", "samples", "latency and memory"]
    assert all(s["seconds"] >= 0 and s["workers"] == 1 for s in stages)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_process_resumes_to_the_same_answers(experiment_file, tmp_path, workers):
    """kill -9 at several moments; the same command then ends in what an uninterrupted run of one process writes."""
    whole = contents(run(experiment_file, tmp_path / "whole").path)
    command = [sys.executable, "-m", "suite.cli.main", "reproduce", "--experiment", str(experiment_file)]
    command += ["--runs", str(tmp_path / "killed"), "--workers", str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    for watched, size in (("vt-*/game.sqlite", 1), ("predictions.jsonl", 1), ("predictions.jsonl", 6000)):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            files = list((tmp_path / "killed").rglob(watched))
            if files and files[0].stat().st_size >= size:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        process.wait(timeout=120)
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    (folder,) = (tmp_path / "killed").glob("tiny-*")
    assert contents(folder) == whole


def test_two_presets_of_a_method_are_measured_apart(experiment_file, tmp_path):
    text = experiment_file.read_text().replace(
        '"snapkv"', '"adakv", {name = "adakv", preset = "official", params = {window_size = 8}}'
    )
    experiment_file.write_text(text)
    rows = run(experiment_file, tmp_path / "runs").read("measurements.json")["decode"]
    arms = [(r["method"], r["preset"], r["runtime"]) for r in rows]
    assert len(set(arms)) == len(arms)
    assert {("adakv", "normalized", "ragged"), ("adakv", "official", "ragged")} <= set(arms)


def test_the_first_token_comes_from_where_the_protocol_says(tmp_path, experiment_file):
    """A row of the full cache answers alike either way; a compressed row may not, and says which it was."""
    text = experiment_file.read_text().replace("[game]", '[protocol]\nfirst_token = "{first}"\n\n[game]')
    answers = {}
    for first in ("prefill", "compressed"):
        path = tmp_path / f"{first}.toml"
        path.write_text(text.replace("{first}", first))
        records = run(path, tmp_path / first).lines("predictions.jsonl")
        assert {r["first_token"] for r in records} == {first}
        answers[first] = {(r["sample_id"], r["method"], r["kv_budget"]): r.get("prediction") for r in records}
    full = [key for key in answers["prefill"] if key[1] == "full"]
    assert all(answers["prefill"][key] == answers["compressed"][key] for key in full)
    assert answers["prefill"] != answers["compressed"]
