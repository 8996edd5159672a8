"""What counts as moved against committed answers, on planted records."""

import pytest

from reports.errors import ReportError
from reports.golden import ANSWERS, compare, main, read_answers, write_answers
from tests.reports.conftest import record, write_run

SCORES = (100.0, 100.0, 0.0, 100.0, 0.0, 100.0, 100.0, 100.0, 0.0)


def planted(**more):
    full = [record("full", None, 100.0, sample, **more) for sample in range(len(SCORES))]
    return full + [record("snapkv", 64, score, sample, **more) for sample, score in enumerate(SCORES)]


def test_equal_answers_move_nothing():
    result = compare(planted(), planted())
    assert (result.compared, result.changed, result.moved) == (18, (), ())


def test_an_answer_within_the_interval_is_counted_and_moves_nothing():
    run = planted()
    run[-1] = run[-1] | {"prediction": "another answer, of the same score"}
    result = compare(planted(), run)
    assert len(result.changed) == 1 and not result.moved


def test_a_cell_beyond_its_interval_names_both_values_and_the_records():
    run = [r if r["method"] == "full" else r | {"score": 0.0, "prediction": "nothing"} for r in planted()]
    result = compare(planted(), run)
    cell = next(move for move in result.moved if move.task)
    assert (round(cell.before, 1), cell.after, cell.variant.method) == (66.7, 0.0, "snapkv")
    assert len(cell.records) == len(SCORES)
    assert "66.7 before, 0.0 now" in str(cell) and "niah_single_1/0/0" in str(cell) and "'nothing'" in str(cell)


def test_a_part_of_the_samples_is_compared_on_that_part():
    run = [r for r in planted() if r["sample_id"].endswith(("/0", "/1"))]
    assert compare(planted(), run).compared == 4
    assert not compare(planted(), run).moved
    worse = [r | ({"score": 0.0} if r["method"] == "snapkv" else {}) for r in run]
    assert compare(planted(), worse).moved


def test_a_budget_that_can_no_longer_be_met_has_moved():
    run = planted()
    run[-1] = run[-1] | {"score": None, "infeasible": "window 8 does not fit"}
    moved = compare(planted(), run).moved
    assert [move.variant.method for move in moved] == ["snapkv"] and "no score (window 8 does not fit)" in str(moved[0])


def test_answers_are_stored_and_read_back(tmp_path):
    records = [*planted(), record("snapkv", "20%", 50.0, 0, kv_slots=190)]
    write_answers(records, tmp_path)
    assert not compare(read_answers(tmp_path), records).changed
    assert compare(read_answers(tmp_path), records).compared == len(records)


def test_the_command_says_what_moved(tmp_path, capsys):
    answers = tmp_path / "results"
    answers.mkdir()
    run = write_run(tmp_path / "run", planted())
    assert main([str(run), str(answers)]) == 2 and "--write" in capsys.readouterr().err
    assert main([str(run), str(answers), "--write"]) == 0 and (answers / ANSWERS).is_file()
    assert main([str(run), str(answers)]) == 0
    capsys.readouterr()
    worse = write_run(tmp_path / "worse", [r | {"score": 0.0} for r in planted()])
    assert main([str(worse), str(answers)]) == 1
    assert "18 records compared" in capsys.readouterr().out


def test_no_common_record_is_no_success(tmp_path):
    write_answers(planted(), tmp_path)
    run = write_run(tmp_path / "run", planted(task="vt"))
    assert main([str(run), str(tmp_path)]) == 1
    with pytest.raises(ReportError, match="does not exist"):
        read_answers(tmp_path / "run")
