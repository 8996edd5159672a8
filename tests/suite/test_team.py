"""How many processes a command starts when it is not told: as many as CPUs and memory allow."""

import pytest
import torch

from cokv.cluster import InProcess, machine
from cokv.cluster.processes import Processes
from cokv.model.weights import weights_bytes
from cokv.types import CokvError
from suite.heads import games
from suite.run import workers
from suite.run.workers import ALLOWANCE, MAX_DEFAULT_WORKERS, pool_for, size
from suite.spec import ModelSpec

GIB = 1 << 30


@pytest.fixture
def resources(monkeypatch):
    """Sets the number of CPUs and the memory that commands see."""

    def has(cpus, memory):
        monkeypatch.setattr(workers, "usable_cpus", lambda: cpus)
        monkeypatch.setattr(workers, "available_memory", lambda: memory)

    return has


@pytest.mark.parametrize(("cpus", "expected"), [(1, 1), (2, 2), (64, MAX_DEFAULT_WORKERS)])
def test_a_process_per_cpu_where_memory_is_ample(resources, random_model, cpus, expected):
    resources(cpus, 64 * GIB)
    for name in ("embedded", str(random_model), "smollm2-135m"):
        pool = pool_for(ModelSpec(name=name), None)
        assert size(pool) == expected
        assert pool == (InProcess() if expected == 1 else Processes(expected, threads=1))


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 4), ("bfloat16", 2)])
def test_all_processes_fit_in_half_of_the_memory(resources, dtype, bytes_each):
    weights = 134_515_008 * bytes_each
    assert weights_bytes("smollm2-135m", None, dtype) == weights
    for expected in (1, 2, 5):
        enough = 2 * (weights + expected * (weights + ALLOWANCE))
        resources(64, enough)
        assert size(pool_for(ModelSpec(name="smollm2-135m", dtype=dtype), None)) == expected
        resources(64, enough - 2)
        assert size(pool_for(ModelSpec(name="smollm2-135m", dtype=dtype), None)) == max(expected - 1, 1)


@pytest.mark.parametrize("model", [ModelSpec(name="embedded", device="cuda"), ModelSpec(name="some/model")])
def test_one_process_on_a_gpu_and_where_the_size_is_not_known(resources, model):
    resources(64, 640 * GIB)
    assert pool_for(model, None) == InProcess(model.device)
    assert pool_for(model, 3) == Processes(3, model.device)


def test_the_size_of_weights_is_that_of_the_loaded_model(random_model, tmp_path):
    from cokv.model.loading import load_model

    for name in ("embedded", str(random_model)):
        loaded = load_model(name)
        parameters = sum(parameter.numel() for parameter in dict.fromkeys(loaded.model.parameters()))
        assert weights_bytes(name, None, "float32") == 4 * parameters
    assert weights_bytes(str(tmp_path), None, "float32") is None
    assert weights_bytes("some/model", "0" * 40, "float32") is None
    (tmp_path / "x.gguf").write_bytes(b"nonsense")
    assert weights_bytes(str(tmp_path / "x.gguf"), None, "float32") is None, "loading it says what is wrong"


def test_a_user_s_word_on_threads_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert machine.usable_cpus() == 3


def test_containers_limit_cpus_and_memory(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    free = machine.available_memory()
    assert machine.usable_cpus() == 16 and free > 0
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900000\n")
    assert machine.usable_cpus() == 16 and machine.available_memory() > 1_000_000
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine.usable_cpus() == 2 and machine.available_memory() == 100_000
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 7000\n")
    assert machine.available_memory() == 107_000


def test_processes_share_what_one_takes_for_prefills(monkeypatch):
    monkeypatch.setattr(games, "available_memory", lambda: 80)
    assert games._prefill_bounds(torch.device("cpu"), 1) == (20, 0)
    assert games._prefill_bounds(torch.device("cpu"), 4) == (5, 0)


def test_workers_know_how_many_they_are(monkeypatch):
    assert games.GamesWorker(None).for_pool(Processes(3), None).processes == 3


def test_no_workers_at_all_are_refused():
    with pytest.raises(CokvError, match="0 workers were asked for, expected at least 1"):
        pool_for(ModelSpec(name="embedded"), 0)


@pytest.fixture(autouse=True)
def several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of tests: how many workers there are by default is what is tested here."""
    monkeypatch.setattr("suite.run.workers.MAX_DEFAULT_WORKERS", MAX_DEFAULT_WORKERS)
