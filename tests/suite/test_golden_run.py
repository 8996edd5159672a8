"""A part of the embedded experiment, run again, against the committed answers of the whole."""

from pathlib import Path

import pytest

from reports.golden import compare, read_answers
from suite.experiment import run_experiment
from suite.run.stored_answers import PREDICTIONS
from suite.run.workers import pool_for
from suite.spec import read_experiment, with_tasks

ROOT = Path(__file__).parents[2]
TASKS = [  # every kind of metric, language and answer length
    *("niah_single_2", "vt", "qa_1"),
    *("dureader", "trec", "lcc"),
]


@pytest.mark.slow
def test_no_cell_of_the_embedded_experiment_moves(tmp_path):
    whole = with_tasks(read_experiment(ROOT / "experiments/embedded.toml", limit=1), TASKS)
    profiles = whole.profiles.model_copy(update={"source": "shipped_or_computed"})  # LU-KV's is of all tasks
    part = whole.model_copy(update={"measure": None, "profiles": profiles, "kv_budgets": (64, 256)})
    folder = run_experiment(part, tmp_path, pool_for(part.model, 2))
    result = compare(read_answers(ROOT / "benchmarks/results/embedded"), folder.lines(PREDICTIONS))
    assert result.compared == len(folder.lines(PREDICTIONS)) > 900
    assert not result.moved, "\n".join(map(str, result.moved))
    share = len(result.changed) / result.compared  # another processor rounds otherwise; that moves single answers
    assert share < 0.01, f"{share:.1%} of the answers differ, the first: {result.changed[0]}"
