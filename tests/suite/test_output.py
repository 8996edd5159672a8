"""What is printed: no encoding of standard output and no full disk behind it costs a result or shows a traceback."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
import typer
from command_line import call

from cokv.methods.registry import METHODS, get_method
from cokv.model.observe import Replayer
from suite.cli.commands import reported
from suite.cli.main import main
from suite.cli.terminal import prepare_output

ROOT = Path(__file__).parents[2]


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: object) -> str:
    """What a terminal of this encoding shows of a command, which must end with exit code 0."""
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding=encoding, errors="strict"))
    monkeypatch.setattr(sys, "argv", ["cokv", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    sys.stdout.flush()
    assert not end.value.code
    return screen.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "utf-8"])
@pytest.mark.parametrize("command", ["methods --long", "tasks", "protocols", "--help", "compare --help"])
def test_every_encoding_shows_every_table(monkeypatch, encoding, command):
    text = printed(monkeypatch, encoding, *command.split())
    assert len(text.splitlines()) > 5 and ("│" in text) == (encoding == "utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_comparison_is_written_and_shown_in_every_encoding(monkeypatch, random_model, tmp_path, encoding):
    (tmp_path / "prompt.txt").write_text("The special number is 4 5 6 . " * 9)
    arguments = ("--prompt-file", tmp_path / "prompt.txt", "--kv-budget", 24, "--methods", "snapkv", "--out")
    more = ("--model", random_model, "--param", "window_size=8", "--max-new-tokens", 2)
    text = printed(monkeypatch, encoding, "compare", *arguments, tmp_path / "out", *more)
    assert "snapkv" in text and str(tmp_path / "out" / "compare.json") in text
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["methods"][1]["method"] == "snapkv"


def test_files_are_written_before_anything_is_printed(monkeypatch, random_model, tmp_path):
    def fail(comparison):
        raise OSError("the terminal is gone")

    monkeypatch.setattr("suite.cli.compare_show.show", fail)
    (tmp_path / "prompt.txt").write_text("The special number is 4 5 6 . " * 9)
    arguments = ("--prompt-file", tmp_path / "prompt.txt", "--kv-budget", 24, "--methods", "streamingllm")
    result = call("compare", *arguments, "--model", random_model, "--max-new-tokens", 2, "--out", tmp_path / "out")
    assert result.exit_code == 2 and (tmp_path / "out" / "compare.json").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_a_full_disk_behind_standard_output_is_one_line():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "suite.cli.main", "tasks"]
        ended = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("cokv: No space left on device; free some space")


def rows_of(*arguments: str) -> dict[tuple[str, str], list[str]]:
    """Cells of the table of methods by name and preset, of rows that fit on one line."""
    lines = [line for line in call("methods", *arguments).stdout.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {(row[0], row[2]): row for row in cells if row[0]}


def test_the_table_of_methods_says_which_deploy_in_generate():
    rows = rows_of()
    for (name, preset), row in rows.items():
        method = get_method(name, preset.removesuffix(" (ours)"))
        twice = any(isinstance(observer, Replayer) for observer in method.observers)
        assert row[5] == ("after cache.prefill" if twice else "yes"), name
    assert {name for name, _ in rows} == set(METHODS)
    assert {name for (name, _), row in rows.items() if row[5] != "yes"} == {"kvzip"}


def test_the_long_table_of_methods_has_parts_parameters_and_notes():
    header = next(line for line in call("methods", "--long").stdout.splitlines() if "┃ name" in line)
    names = [name.strip() for name in header.strip("┃").split("┃")]
    assert names[:6] == ["name", "title", "preset", "needs", "while decoding", "deploys"]
    assert {"scorer", "allocator", "policy", "parameters", "note"} <= set(names)
    assert "num_sinks=4" in call("methods", "--long").stdout and "num_sinks=4" not in call("methods").stdout


@pytest.mark.parametrize("setting", ["nope", "TkAgg", "module://nope"])
def test_a_back_end_for_windows_is_not_asked_for(monkeypatch, setting):
    monkeypatch.setenv("MPLBACKEND", setting)
    prepare_output()
    imported = subprocess.run([sys.executable, "-c", "import matplotlib"], stderr=subprocess.PIPE, text=True)
    assert imported.returncode == 0, imported.stderr


def test_a_matplotlibrc_that_cannot_be_decoded_is_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "matplotlibrc").write_bytes("text.usetex: True\n".encode("utf-16"))
    monkeypatch.chdir(tmp_path)

    def load() -> None:
        mpl.rc_params(fail_on_error=True)  # as while matplotlib is loaded

    with pytest.raises(typer.Exit) as end:
        reported(load)()
    message = capsys.readouterr().err.splitlines()[-1]
    assert end.value.exit_code == 2 and "save the file matplotlibrc as UTF-8, or remove it" in message


def test_text_that_another_file_cannot_decode_is_no_matter_of_matplotlib():
    def decode() -> None:
        b"\xff".decode("utf-8")

    with pytest.raises(UnicodeDecodeError):
        reported(decode)()
