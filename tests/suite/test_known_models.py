"""Known models on the command line, and in a run: fetched unasked by `cokv reproduce` alone, which says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cokv.model.fetch import known_model
from cokv.types import CokvError
from suite.cli.main import app
from suite.run import fetching


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COKV_CACHE", str(tmp_path / "cache"))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_list_shows_every_known_model_and_where_it_is(tmp_path: Path) -> None:
    shown = run("model", "list").output
    assert "smollm2-135m" in shown and "Apache-2.0" in shown and str(tmp_path / "cache") in shown


def test_an_unknown_name_is_one_line() -> None:
    result = run("model", "fetch", "nothing")
    assert result.exit_code == 2 and "known: smollm2-135m" in result.output and len(result.output.splitlines()) == 1


@pytest.fixture
def known_experiment(experiment_file: Path, random_model: Path) -> Path:
    text = experiment_file.read_text(encoding="utf-8").replace(str(random_model), "smollm2-135m")
    experiment_file.write_text(text, encoding="utf-8")
    return experiment_file


def test_what_cannot_be_had_is_named_with_the_experiment_that_needs_nothing(
    known_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    result = run("reproduce", "--experiment", str(known_experiment), "--runs", str(tmp_path / "runs"), "--workers", "1")
    assert result.exit_code == 2 and "--experiment embedded" in result.output.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_reproduce_fetches_and_other_commands_do_not(
    known_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fetched: list[str] = []

    def refuse(name: str, say: Any) -> None:
        fetched.append(name)
        say("downloading")
        raise CokvError("stopped here")

    monkeypatch.setattr(fetching, "fetch", refuse)
    result = run("profile", "ssv", "--task", "vt", "--experiment", str(known_experiment), "--runs", str(tmp_path))
    assert result.exit_code == 2 and "cokv model fetch smollm2-135m" in result.output and not fetched
    result = run("reproduce", "--experiment", str(known_experiment), "--runs", str(tmp_path), "--workers", "1")
    assert fetched == ["smollm2-135m"] and "downloading" in result.output
    assert known_model("smollm2-135m").size > 0
