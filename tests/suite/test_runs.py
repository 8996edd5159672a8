"""Run folders: same identity same folder, torn lines are redone, other damage is said."""

import json

import pytest

from suite.errors import SuiteError
from suite.run.folder import RunFolder

IDENTITY = {"experiment": {"seed": 0}, "model": {"digest": "abc"}}


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path, "run", IDENTITY)
    made.open()
    return made


def test_the_name_depends_on_everything_in_the_identity(tmp_path):
    names = {RunFolder(tmp_path, "run", {**IDENTITY, "x": x}).path.name for x in (0, 1, "1", None)}
    assert len(names) == 4
    turned = dict(reversed(IDENTITY.items()))
    assert RunFolder(tmp_path, "run", turned).path == RunFolder(tmp_path, "run", IDENTITY).path


def test_records_come_back_as_written(folder):
    records = [{"a": 1, "text": "日本\n"}, {"b": [1.5, None]}]
    with folder.appender("x.jsonl") as append:
        append(records[:1])
        append(records[1:])
    assert folder.lines("x.jsonl") == records


def test_a_torn_last_line_is_dropped_and_the_file_can_go_on(folder):
    with folder.appender("x.jsonl") as append:
        append([{"i": 0}, {"i": 1}])
    file = folder.path / "x.jsonl"
    file.write_bytes(file.read_bytes()[:-4])
    assert folder.lines("x.jsonl") == [{"i": 0}]
    with folder.appender("x.jsonl") as append:
        append([{"i": 2}])
    assert [r["i"] for r in folder.lines("x.jsonl")] == [0, 2]


def test_a_damaged_line_is_named_and_nothing_is_lost(folder):
    file = folder.path / "x.jsonl"
    file.write_text('{"i": 0}\n{"i": \n{"i": 2}\n')
    with pytest.raises(SuiteError, match="line 2"):
        folder.lines("x.jsonl")
    assert file.read_text().count("\n") == 3


def test_another_experiment_in_the_folder_is_refused(folder, tmp_path):
    spec = json.loads((folder.path / "spec.json").read_text())
    (folder.path / "spec.json").write_text(json.dumps({**spec, "model": {"digest": "other"}}))
    with pytest.raises(SuiteError, match="another experiment"):
        RunFolder(tmp_path, "run", IDENTITY).open()


def test_a_half_written_spec_is_refused(folder, tmp_path):
    (folder.path / "spec.json").write_text('{"schema": 1, ')
    with pytest.raises(SuiteError, match="damaged"):
        RunFolder(tmp_path, "run", IDENTITY).open()


def test_a_folder_of_something_else_is_refused(tmp_path):
    made = RunFolder(tmp_path, "run", IDENTITY)
    made.path.mkdir()
    (made.path / "thesis.txt").write_text("mine")
    with pytest.raises(SuiteError, match=r"no spec\.json"):
        made.open()
    assert (made.path / "thesis.txt").read_text() == "mine"


def test_a_kill_before_the_first_file_is_no_foreign_folder(tmp_path):
    made = RunFolder(tmp_path, "run", IDENTITY)
    made.path.mkdir()
    (made.path / ".spec.json.part").write_text('{"sche')
    made.open()
    assert json.loads((made.path / "spec.json").read_text())["hash"] == made.hash


def test_two_processes_do_not_write_one_run(folder, tmp_path):
    with folder.lock(), pytest.raises(SuiteError, match="another process"), RunFolder(tmp_path, "run", IDENTITY).lock():
        pass
