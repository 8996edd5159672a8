"""Progress counts all of a stage's work, and ends when the stage does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from command_line import call

import suite.run.measure as measure
from cokv.model.loading import load_model
from suite.run.progress import Reporter, progress
from suite.spec import read_experiment


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the latency stage does, in order."""
    seen: list[str] = []

    def noted(name: str, work: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return work(*args, **kwargs)

        return run

    class Noted:
        def __init__(self, report: Reporter) -> None:
            self.report = report

        def advance(self) -> None:
            self.report.advance()
            seen.append("end" if self.report.done == self.report.total else "advance")

    @contextmanager
    def noted_progress(title: str, total: int) -> Iterator[Noted]:
        with progress(title, total) as report:
            yield Noted(report)

    monkeypatch.setattr(measure, "progress", noted_progress)
    monkeypatch.setattr(measure, "prefill", noted("prefill", measure.prefill))
    monkeypatch.setattr(measure, "_generate", noted("decode", measure._generate))
    return seen


def test_the_latency_stage_counts_prefills_and_ends_with_its_last_one(experiment_file, events):
    experiment = read_experiment(experiment_file)
    spec = experiment.model
    methods = tuple(method for method in experiment.methods if method.name != "cokv")  # which needs head scores
    experiment = experiment.model_copy(update={"methods": methods})
    rows = measure.measure_decode(experiment, load_model(spec.name, None, spec.device, spec.dtype), None)["decode"]
    assert events[-1] == "end" and events.count("end") == 1
    turns = experiment.measure.repeats + 1
    works = [event for event in events if event in ("prefill", "decode")]
    assert works.count("decode") == turns * len(rows)
    assert works.count("prefill") >= 2 * turns  # of the full cache, and of a method with queries of its own
    assert len(works) == events.count("advance") + 1, "a piece of work that no step counts"
    assert all(0 < row["prefill_ms"] <= row["first_token_ms"]["median"] for row in rows)
    assert all(0 < row["between_tokens_ms"]["min"] <= row["decode_ms_per_token"] for row in rows)
    of_a_turn = len(works) // turns  # every turn is alike, so the time left is that of the turns left
    assert all(works[start : start + of_a_turn] == works[:of_a_turn] for start in range(0, len(works), of_a_turn))


def test_every_stage_of_a_run_ends_at_its_total(experiment_file, tmp_path, monkeypatch):
    stages: list[Reporter] = []
    begin = Reporter.__init__

    def noted(self: Reporter, *args: Any) -> None:
        begin(self, *args)
        stages.append(self)

    monkeypatch.setattr(Reporter, "__init__", noted)
    result = call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert {stage.title for stage in stages} >= {"head game", "samples", "latency and memory"}
    assert {stage.title: stage.done for stage in stages} == {stage.title: stage.total for stage in stages}


@pytest.mark.parametrize("done", [0, 3])
def test_the_last_line_says_that_nothing_is_left(capsys, done):
    with progress("samples", 5, done) as report:
        for _ in range(5 - done):
            report.advance(note="vt")
    assert capsys.readouterr().err == "samples: 5/5 vt, about 0 s left\n"


def test_work_that_was_not_needed_is_not_left(capsys):
    with progress("head game", 24) as report:
        report.advance(22)
    assert (report.done, report.total) == (22, 22)
    assert capsys.readouterr().err == "head game: 22/22, about 0 s left\n"


def test_a_stage_that_is_stopped_says_nothing_of_its_end(capsys):
    with pytest.raises(KeyboardInterrupt), progress("head game", 24) as report:
        report.advance(22)
        raise KeyboardInterrupt
    assert (report.done, report.total) == (22, 24) and not capsys.readouterr().err
