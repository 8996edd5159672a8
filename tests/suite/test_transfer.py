"""The transfer matrix: its means, its paired intervals, and what it refuses."""

import json

import numpy as np
import pytest

from cokv.model.loading import load_model
from cokv.types import HeadScores
from suite.cli.commands import experiment_of
from suite.errors import SuiteError
from suite.heads.masking_and_transfer import transfer_settings
from suite.heads.transfer import FULL, UNIFORM, matrix, methods_of
from suite.run.folder import RunFolder

TASKS = ("a", "b")


def made_up(samples: int = 30, seed: int = 0) -> dict[str, list[dict[str, float]]]:
    """SYNTHETIC answers: own scores beat the other task's by 10 on every sample, exactly."""
    rng = np.random.default_rng(seed)
    cells = {}
    for target in TASKS:
        ease = rng.uniform(0, 60, samples)
        cells[target] = [
            {**{source: e + (20 if source == target else 10) for source in TASKS}, UNIFORM: e, FULL: e + 30}
            for e in ease
        ]
    return cells


def cell(record, source, target):
    return next(c for c in record["cells"] if (c["source"], c["target"]) == (source, target))


def width(row):
    return row["high"] - row["low"]


def test_cells_are_means_and_differences_are_paired():
    cells = made_up()
    record = matrix(cells, TASKS)
    for source in TASKS:
        for target in TASKS:
            one = cell(record, source, target)
            sample = [answer[source] for answer in cells[target]]
            assert one["score"] == pytest.approx(np.mean(sample))
            assert one["low"] < one["score"] < one["high"] and one["samples"] == 30
            gain = 20 if source == target else 10
            assert one["to_uniform"]["score"] == pytest.approx(gain)
            assert width(one["to_uniform"]) < width(one) / 2, "samples differ, their gains do not"
            if source != target:
                assert one["to_own"]["score"] == pytest.approx(-10) and width(one["to_own"]) < width(one) / 2
    json.dumps(record, allow_nan=False)
    assert record == matrix(cells, TASKS)


def test_averages_are_over_tasks_with_own_scores():
    record = matrix(made_up(), TASKS)
    averages = record["averages"]
    assert averages["own"]["score"] == pytest.approx(averages[FULL]["score"] - 10)
    assert averages["transferred"]["score"] == pytest.approx(averages[UNIFORM]["score"] + 10)
    assert averages["transferred - own"]["score"] == pytest.approx(-10)
    own = [cell(record, task, task)["score"] for task in TASKS]
    assert averages["own"]["score"] == pytest.approx(np.mean(own))


def test_a_target_without_own_scores_and_a_single_sample():
    record = matrix(made_up(samples=1), ("a",))
    assert record["averages"] == {}
    assert "low" not in cell(record, "a", "b") and "to_own" not in cell(record, "a", "b")
    assert cell(record, "a", "b")["to_uniform"] == {"score": pytest.approx(10)}


@pytest.mark.parametrize("case", [({}, ("a",)), ({"a": []}, ("a",)), (made_up(), ())])
def test_nothing_to_compare_is_refused(case):
    with pytest.raises(SuiteError, match="nothing to transfer"):
        matrix(*case)


def test_uniform_differs_from_cokv_in_the_allocator_alone():
    cokv, snapkv = methods_of({"window_size": 8, "kernel_size": 5, "alpha": 3})
    assert snapkv.scorer == cokv.scorer and snapkv.scorer.window_size == 8
    assert snapkv.allocator != cokv.allocator


def test_a_task_without_a_valid_profile_is_named_before_any_work(tmp_path):
    folder = RunFolder(tmp_path, "transfer", {"any": "run"}, {})
    folder.open()
    loaded, experiment = load_model(), experiment_of(None)
    facts = {"kind": "sliced Shapley value", "model": loaded.identity()}
    for task, values in (("vt", np.arange(16.0)), ("trec", np.ones(16))):
        (folder.path / "head_scores").mkdir(exist_ok=True)
        HeadScores(values.reshape(4, 4), facts).save(folder.path / "head_scores" / f"{task}.safetensors")
    transfer_settings(experiment, loaded, folder, 64, ("vt",))
    with pytest.raises(SuiteError, match=r"head scores of trec: cokv: no valid profile: all heads .* with --task"):
        transfer_settings(experiment, loaded, folder, 64, ("vt", "trec"))
