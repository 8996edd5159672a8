"""Every command ends well whatever its output goes to: an old code page, a closed pipe, a terminal of no width."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import call

from suite.cli import commands
from suite.cli.main import app, main

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
name = "small"
methods = ["full", "snapkv", "cokv"]
kv_budgets = [16]
model = {{ name = "{model}" }}
method_defaults = {{ window_size = 8 }}
ruler = {{ preset = "mini", length = 160, samples = 2, tasks = ["niah_single_1", "vt"] }}
game = {{ window_size = 8, prompts = 1, slice_sizes = [2], coalitions_per_size = 3, removal_samples = 1 }}
"""
SMALL = "--experiment {folder}/x.toml --runs {folder}/runs"
EXAMPLES = {  # every command; arguments with {folder}, {run}, {ledger} and {model}
    "reproduce": SMALL,
    "report": "{run}",
    "methods": "--long",
    "tasks": "",
    "protocols": "",
    "reported": "--paper CoKV --budget 64",
    "claims": "{run}",
    "score": "{run}",
    "eval": "--predictions {folder}/hotpotqa.jsonl",
    "compare": "--prompt-file {folder}/p.txt --kv-budget 24 --methods snapkv,streamingllm --param window_size=8 "
    "--max-new-tokens 2 --model {model} --out {folder}/compared",
    "check-method": "snapkv",
    "doctor": "",
    "export": "{run}",
    "model list": "",
    "heads masking": SMALL + " --counts 0,1 --draws 1 --samples 1",
    "profile ssv": SMALL + " --task vt --coalitions 3",
    "profile show": "{run}/head_scores/vt.safetensors",
    "profile aggregate": "{ledger}",
    "profile merge": "{folder}/merged.sqlite {ledger}",
    "profile compare": "{folder}/profiles/headkv.json --shape 2x2 --out {folder}/page",
}
NOT_RUN = {
    "model fetch": "downloads",
    "lm-eval": "another program's command line",
    "heads transfer": "refuses the head scores of a random model",
}
ENDS = {"doctor": (0, 1)}  # 1: the default experiment cannot run on the machine of the tests


def all_commands(group: Any = None, above: tuple[str, ...] = ()) -> Iterator[str]:
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, (*above, name))
        else:
            yield " ".join((*above, name))


def test_every_command_has_an_example_here():
    assert set(all_commands()) == EXAMPLES.keys() | NOT_RUN.keys()


@pytest.fixture(scope="module")
def places(random_model, tmp_path_factory) -> dict[str, Path]:
    """A folder whose name has a space, an umlaut and a line end, and what commands need in it."""
    folder = tmp_path_factory.mktemp("run s ü\n")
    (folder / "x.toml").write_text(EXPERIMENT.format(model=random_model), encoding="utf-8")
    (folder / "p.txt").write_text("The special number is 4 5 6 . " * 9)
    (folder / "hotpotqa.jsonl").write_text('{"pred": "Žluťoučký 日本", "answers": ["a"], "all_classes": null}\n')
    (folder / "profiles").mkdir()
    (folder / "profiles" / "headkv.json").write_text(
        '{"0-0": [0.5], "0-1": [0.2], "1-0": [0.1], "1-1": [0.9]}', encoding="utf-8"
    )
    result = call("reproduce", "--experiment", folder / "x.toml", "--runs", folder / "runs")
    assert result.exit_code == 0, result.output
    run = next((folder / "runs").glob("small-*"))
    ledgers = (folder / "runs" / "games").glob("vt-*/game.sqlite")
    ledger = next(file for file in ledgers if "vt-test" not in file.parent.name)
    return {"folder": folder, "run": run, "ledger": ledger, "model": random_model}


def arguments(command: str, places: dict[str, Path]) -> list[str]:
    return [part.format(**places) for part in [*command.split(), *EXAMPLES[command].split()]]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", EXAMPLES)
def test_every_command_ends_well_in_an_old_code_page(monkeypatch, places, command, encoding):
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "argv", ["cokv", *arguments(command, places)])
    with pytest.raises(SystemExit) as end:
        main()
    screen.flush()
    assert (end.value.code or 0) in ENDS.get(command, (0,))
    assert screen.buffer.getvalue().decode(encoding).strip()


OFTEN = ["compare", "eval"]  # files and a table; JSON


def started(command: str, places: dict[str, Path], **settings: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= settings.pop("env", {})
    line = [sys.executable, "-m", "suite.cli", *arguments(command, places)]
    closed = settings.pop("closed", ())

    def before_it_starts() -> None:
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for descriptor in closed:
            os.close(descriptor)

    return subprocess.Popen(
        line, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=before_it_starts, **settings
    )


@pytest.mark.parametrize("command", OFTEN)
def test_a_reader_that_goes_away_is_no_error(places, command):
    reads, writes = os.pipe()
    os.close(reads)
    ended = started(command, places, stdout=writes)
    os.close(writes)
    assert ended.communicate()[1] == ""
    assert ended.returncode not in (0, 2)  # as other programs that end by a broken pipe
    if command == "compare":
        assert (places["folder"] / "compared" / "compare.json").is_file()


def test_a_closed_standard_output_is_no_error(places):
    ended = started("tasks", places, closed=[1])
    assert ended.communicate()[1] == "" and ended.returncode == 0


@pytest.mark.parametrize("columns", ["0", "1", "-5", "many"])
def test_a_width_that_cannot_be_used_is_ignored(monkeypatch, capsys, places, columns):
    monkeypatch.setattr(sys, "argv", ["cokv", *arguments("report", places)])
    monkeypatch.delenv("COLUMNS", raising=False)
    shown = []
    for width in (None, columns):
        if width is not None:
            monkeypatch.setenv("COLUMNS", width)
        with pytest.raises(SystemExit):
            main()
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "SnapKV" in shown[0]


@pytest.mark.parametrize("setting", [{"TERM": "dumb"}, {"NO_COLOR": "1", "COLUMNS": "20"}])
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of Unix")
def test_an_odd_terminal_shows_every_table(places, setting):
    outer, inner = os.openpty()
    environment = {"TERM": "xterm-256color", **setting}
    ended = started("report", places, stdout=inner, env=environment)
    os.close(inner)
    shown = b""
    while True:
        try:
            block = os.read(outer, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(outer)
    assert ended.communicate()[1] == "" and ended.returncode == 0
    text = shown.decode("utf-8")
    assert "SnapKV" in text
    colours = any(f"\x1b[{code}" in text for code in ("31", "32", "36", "38"))
    assert not colours


STOPPED = "cokv: stopped; what is finished is kept: run the same command again to go on"


@pytest.mark.parametrize("command", ["reproduce", "tasks"])
def test_a_keyboard_interrupt_is_one_line_that_says_what_is_kept(capsys, command):
    def stopped() -> None:
        raise KeyboardInterrupt

    stopped.__name__ = command
    with pytest.raises(typer.Exit) as end:
        commands.reported(stopped)()
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.exit_code == 130
    assert line == (STOPPED if command == "reproduce" else "cokv: stopped; run the same command again")


def test_an_interrupted_run_ends_in_one_line_and_goes_on(places, tmp_path):
    text = (places["folder"] / "x.toml").read_text(encoding="utf-8").replace("samples = 2,", "samples = 400,")
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    inside = {**places, "folder": tmp_path}
    ended = started("reproduce", inside, stdout=subprocess.PIPE, start_new_session=True)
    while ended.poll() is None and not any(
        file.stat().st_size for file in (tmp_path / "runs").glob("small-*/predictions.jsonl")
    ):
        time.sleep(0.05)
    os.killpg(ended.pid, signal.SIGINT)
    error = ended.communicate()[1]
    assert ended.returncode == 130, error
    last = [line for line in error.splitlines() if "left" not in line]
    assert last == [STOPPED]
    (kept,) = (tmp_path / "runs").glob("small-*/predictions.jsonl")
    assert kept.read_bytes().endswith(b"\n")
