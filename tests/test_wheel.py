"""The wheel holds the five packages with all that they read, the experiments, and nothing else; it runs without the
checkout.

Built and unpacked here beside this environment's torch; `tox -e wheel` installs it in an environment of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from documented import ROOT

PACKAGES = ("cokv", "longbench", "reports", "ruler", "suite")
BUILD = "from setuptools.build_meta import build_wheel; build_wheel({!r})"
READ = """
import cokv
from cokv.profiles.shipped import shipped_folders
from longbench.mini.generate import wording
from longbench.subset import mini_samples
from reports.reported.table import published_values
from ruler.essays import read_essays
from suite.cli.commands import shipped_experiments
assert cokv.__file__.startswith({folder!r}), cokv.__file__
cokv.load_model()
assert wording() and mini_samples() and published_values() and read_essays("alice")
print(*shipped_folders(), *(name for name, path in shipped_experiments().items() if str(path).startswith({folder!r})))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder of the checkout adds to it or remains in it."""
    source, out = tmp_path_factory.mktemp("source") / "cokv", tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "build", "dist", "runs", "checkpoint.pt")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-c", BUILD.format(str(out))]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = out.glob("cokv-*.whl")
    return built


def names_in(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}


def test_the_wheel_has_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    ours = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    packed = {name for name in names_in(wheel) if name.split("/")[0] in PACKAGES}
    assert packed == ours, f"not packed: {sorted(ours - packed)}; packed too: {sorted(packed - ours)}"


def test_the_wheel_has_the_experiments_and_nothing_else_beside_the_packages(wheel: Path) -> None:
    others = {name for name in names_in(wheel) if name.split("/")[0] not in PACKAGES}
    data = {name.partition(".data/data/")[2] for name in others if ".data/" in name}
    assert data == {f"share/cokv/experiments/{file.name}" for file in (ROOT / "experiments").iterdir()}
    assert all(".dist-info/" in name for name in others if ".data/" not in name), others


def test_types_are_marked_in_every_package(wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= names_in(wheel)


def test_metadata_names_the_command_the_licence_and_no_host(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    read = {name.split("/")[-1]: archive.read(name).decode() for name in names_in(wheel) if ".dist-info/" in name}
    metadata = message_from_string(read["METADATA"])
    assert metadata["License-Expression"] == "Apache-2.0" and "cokv = suite.cli.main:main" in read["entry_points.txt"]
    requirements = metadata.get_all("Requires-Dist")
    assert requirements and not any(" @ " in line or "://" in line for line in requirements)
    assert not metadata.get_all("Project-URL") and not metadata["Home-page"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files as pip lays them, in a folder of their own."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def without_checkout(installed: Path, home: Path, *arguments: str) -> str:
    """Standard output of Python in an empty folder, in which the installed files come first."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_packages_read_their_data_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    expected = {*(file.stem for file in (ROOT / "experiments").glob("*.toml")), "embedded"}
    expected |= {folder.name for folder in (ROOT / "cokv" / "known_profiles").iterdir()}
    assert set(without_checkout(installed, tmp_path, "-c", READ.format(folder=str(installed))).split()) == expected


@pytest.mark.parametrize(
    "command",
    [
        ("methods",),
        ("tasks",),
        ("reported", "--check"),
        ("reproduce", "--experiment", "cokv-llama3-8b", "--dry-run"),
    ],
    ids=" ".join,
)
def test_commands_that_read_data_run_without_the_checkout(
    command: tuple[str, ...], installed: Path, tmp_path: Path
) -> None:
    assert without_checkout(installed, tmp_path, "-m", "suite.cli", *command).strip()


@pytest.mark.slow
def test_an_experiment_that_ships_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """The embedded model and one of the files beside it; all of `embedded` runs in `tox -e wheel`."""
    part = ("--experiment", "smoke", "--limit", "1", "--task", "vt", "--workers", "1")
    printed = without_checkout(installed, tmp_path, "-m", "suite.cli", "reproduce", *part)
    assert "SnapKV" in printed and (tmp_path / printed.splitlines()[-1] / "report.md").is_file()
    assert "SnapKV" in without_checkout(installed, tmp_path, "-m", "suite.cli", "report")
