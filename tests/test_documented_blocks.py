"""The Python of README.md and docs/ runs as it is pasted, and their TOML is read as part of an experiment."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from documented import ROOT, Block, blocks
from small_experiment import GOOD

from suite.spec import read_experiment

PYTHON = blocks("python")


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}))
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one interpreter, beside the file of one's own scorer that a page shows."""
    for block in PYTHON:
        if "class Nearby" in block.text:
            (tmp_path / "mymethods.py").write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": __name__}  # dataclasses look their module up
    for number, block in enumerate(block for block in PYTHON if block.page == page):
        exec(compile(block.text, f"{page}, Python block {number + 1}", "exec"), names)
        printed = capsys.readouterr().out
        assert printed or "print(" not in block.text


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: f"{block.page}: {block.text.splitlines()[0]}")
def test_toml_is_an_experiment_or_a_part_of_one(block: Block, tmp_path: Path) -> None:
    """A part comes on top of a small experiment, and its tasks in place of that one's."""
    for file in (ROOT / "experiments").glob("*.toml"):
        shutil.copy(file, tmp_path)
    (tmp_path / "small.toml").write_text(GOOD, encoding="utf-8")
    keys = tomllib.loads(block.text).keys()
    base = "" if "extends" in keys else 'extends = "small"\n'
    base += "ruler = false\n" if keys & {"longbench", "longbench_mini"} and "ruler" not in keys else ""
    (tmp_path / "shown.toml").write_text(base + block.text, encoding="utf-8")
    assert read_experiment(tmp_path / "shown.toml").name
