"""How many processes a command starts when it is not told."""

import pytest
import torch

from cokv.cluster import InProcess
from cokv.cluster.processes import Processes
from cokv.types import CokvError
from suite.run.workers import MAX_DEFAULT_WORKERS, pool_for, size
from suite.spec import ModelSpec


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (2, 2), (64, MAX_DEFAULT_WORKERS)])
def test_the_embedded_model_on_a_cpu_has_a_process_per_thread(monkeypatch, threads, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    pool = pool_for(ModelSpec(name="embedded"), None)
    assert size(pool) == expected
    assert pool == (InProcess() if expected == 1 else Processes(expected, threads=1))


@pytest.mark.parametrize("model", [ModelSpec(name="embedded", device="cuda"), ModelSpec(name="some/model")])
def test_other_models_are_loaded_once_unless_asked(monkeypatch, model):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert pool_for(model, None) == InProcess(model.device)
    assert pool_for(model, 3) == Processes(3, model.device)


def test_no_workers_at_all_are_refused():
    with pytest.raises(CokvError, match="0 workers were asked for, expected at least 1"):
        pool_for(ModelSpec(name="embedded"), 0)
