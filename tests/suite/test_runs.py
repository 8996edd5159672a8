"""Run folders: one identity has one folder, torn lines are computed again, other damage is an error that names it."""

import errno
import json

import pytest

from suite.errors import SuiteError
from suite.run.folder import RunFolder

IDENTITY = {"experiment": {"seed": 0}, "model": {"digest": "abc"}}


@pytest.fixture
def folder(tmp_path):
    new = RunFolder(tmp_path, "run", IDENTITY)
    new.open()
    return new


def test_the_name_depends_on_everything_in_the_identity(tmp_path):
    names = {RunFolder(tmp_path, "run", {**IDENTITY, "x": x}).path.name for x in (0, 1, "1", None)}
    assert len(names) == 4
    other_order = dict(reversed(IDENTITY.items()))
    assert RunFolder(tmp_path, "run", other_order).path == RunFolder(tmp_path, "run", IDENTITY).path


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


@pytest.mark.parametrize("kept", ["nothing", "half a line", "one line", "all but the line end", "all"])
def test_an_append_is_whole_or_gone_after_a_kill(folder, kept):
    file, block = folder.path / "x.jsonl", [{"i": 1}, {"i": 2}, {"i": 3}]
    size = {"nothing": 0, "half a line": 4, "one line": 8, "all but the line end": 23, "all": 24}[kept]
    with pytest.raises(KeyboardInterrupt), folder.appender("x.jsonl") as append:
        append([{"i": 0}])
        before = file.stat().st_size
        append(block)
        raise KeyboardInterrupt
    file.write_bytes(file.read_bytes()[: before + size])
    stored = [{"i": 0}, *block] if kept == "all" else [{"i": 0}]
    assert folder.lines("x.jsonl") == stored
    with folder.appender("x.jsonl") as append:
        append([{"i": 4}, {"i": 5}])
    assert folder.lines("x.jsonl") == [*stored, {"i": 4}, {"i": 5}]
    assert not [path for path in folder.path.iterdir() if path.name.endswith(".append")]


def test_an_append_that_was_not_begun_and_a_rewritten_file_lose_nothing(folder):
    with pytest.raises(KeyboardInterrupt), folder.appender("x.jsonl") as append:
        append([{"i": number} for number in range(9)])
        raise KeyboardInterrupt
    folder.rewrite("x.jsonl", [{"i": 0}, {"i": 1}])
    assert folder.lines("x.jsonl") == [{"i": 0}, {"i": 1}]
    (folder.path / ".x.jsonl.append").write_text("[3")
    assert folder.lines("x.jsonl") == [{"i": 0}, {"i": 1}]


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


@pytest.mark.parametrize("content", ['{"schema": 1, ', "[" * 100_000, '{"schema": NaN}', "\xff", ""])
def test_a_damaged_spec_is_refused(folder, tmp_path, content):
    (folder.path / "spec.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(SuiteError, match="damaged"):
        RunFolder(tmp_path, "run", IDENTITY).open()


def test_a_folder_of_something_else_is_refused(tmp_path):
    folder = RunFolder(tmp_path, "run", IDENTITY)
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(SuiteError, match=r"no spec\.json"):
        folder.open()
    assert (folder.path / "thesis.txt").read_text() == "chapter 1"


def test_a_kill_before_the_first_file_is_no_foreign_folder(tmp_path):
    folder = RunFolder(tmp_path, "run", IDENTITY)
    folder.path.mkdir()
    (folder.path / ".spec.json.part").write_text('{"sche')
    folder.open()
    assert json.loads((folder.path / "spec.json").read_text())["hash"] == folder.hash


def test_two_processes_do_not_write_one_run(folder, tmp_path):
    with folder.lock(), pytest.raises(SuiteError, match="another process"), RunFolder(tmp_path, "run", IDENTITY).lock():
        pass


def test_a_file_system_without_locks_is_no_other_process(folder, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(SuiteError, match=r"cannot be locked \(Operation not supported\); .*--runs"), folder.lock():
        pass
