"""benchmarks/cpu.sh and gpu.sh: every command that they run is one that its benchmark understands."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
EVERYTHING = {
    "cpu.sh": "decode rules peers attention prefill memory scaling soak probes",
    "gpu.sh": "tests decode figure game attention prefill probes experiment smollm2",
}


def commands(script: str, folder: Path, *parts: str, **settings: str) -> list[list[str]]:
    """What the script runs, with a program that only writes down its arguments in Python's place."""
    python, log = folder / "python", folder / "log"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nprintf "%s\\t" "$@" >>"{log}"\necho >>"{log}"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    names = {"PYTHON": str(python), "PEERS_PYTHON": str(python), "OUT": str(folder / "out"), **settings}
    command = ["bash", str(ROOT / "benchmarks" / script), *parts]
    done = subprocess.run(command, env=os.environ | names, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.rstrip("\t").split("\t") for line in log.read_text().splitlines()]


class Understood(Exception):
    """The arguments have been read: a model would be made next."""


@pytest.mark.parametrize("settings", [{}, {"SHAPE": "tiny", "DEVICE": "cpu"}], ids=["whole", "tiny"])
@pytest.mark.parametrize("script", EVERYTHING)
def test_every_benchmark_understands_its_arguments(script, settings, tmp_path, monkeypatch):
    def understood(*args, **kwargs):
        raise Understood

    monkeypatch.setitem(sys.modules, "kvpress", SimpleNamespace())
    ran = [c for c in commands(script, tmp_path, *EVERYTHING[script].split(), **settings) if "benchmarks/" in c[0]]
    written = [command[command.index("--out") + 1] for command in ran]
    assert len(set(written)) == len(ran) >= 8, "each part has a file of its own"
    for file, *arguments in ran:
        module = importlib.import_module(Path(file).stem)
        for maker in {"random_model", "random_weights", "Record"} & set(vars(module)):
            monkeypatch.setattr(module, maker, understood)
        with pytest.raises(Understood):
            module.main(arguments)
        monkeypatch.undo()
        monkeypatch.setitem(sys.modules, "kvpress", SimpleNamespace())


@pytest.mark.parametrize("script", EVERYTHING)
def test_an_unknown_part_is_refused_with_the_known_ones(script):
    command = ["bash", str(ROOT / "benchmarks" / script), "decod"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "unknown" in done.stderr and EVERYTHING[script] in done.stderr


def test_a_part_that_fails_does_not_stop_the_next(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    settings = {"PYTHON": str(python), "OUT": str(tmp_path), "DEVICE": "cpu"}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "decode", "attention"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "decode ended with 7" in done.stdout and "attention ended with 7" in done.stdout
