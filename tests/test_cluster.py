"""Several processes and Ray give what one process gives, whoever dies, and end with the first refusal."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from cokv.cluster import InProcess
from cokv.cluster.on_ray import OnRay
from cokv.cluster.processes import Processes
from cokv.types import CokvError


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import toy_workers

    return toy_workers


def blocks(count: int):
    rows = np.random.default_rng(0).random((count, 4, 12)) < 0.5
    return list(enumerate(rows))


def gathered(pool, worker, count: int) -> dict[int, bytes]:
    gathered_results = list(pool.map_blocks(worker, blocks(count)))
    assert sorted(index for index, _ in gathered_results) == list(range(count)), "every block once"
    return {index: utilities.tobytes() for index, (_, utilities) in gathered_results}


def begun(toys, log: Path) -> dict[int, int]:
    numbers = [int(number) for number in toys.calls(log)]
    return {number: numbers.count(number) for number in numbers}


def test_processes_give_what_one_process_gives_and_a_death_costs_its_block_only(toys, tmp_path):
    alone = gathered(InProcess(), toys.Toy(tmp_path / "alone"), 7)
    assert toys.calls(tmp_path / "alone") == [str(i) for i in range(7)]
    fate = {1: "dies once", 4: "dies once"}
    assert gathered(Processes(2), toys.Toy(tmp_path / "two", 0.02, fate), 7) == alone
    assert begun(toys, tmp_path / "two") == {0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1, 6: 1}
    assert len({line.split()[0] for line in (tmp_path / "two").read_text().splitlines()}) >= 3


def test_a_refusal_in_a_worker_is_raised_here_and_ends_all(toys, tmp_path):
    with pytest.raises(CokvError, match=r"^this block is refused; choose another$"):
        gathered(Processes(1), toys.Toy(tmp_path / "log", fate={1: "refuses"}), 5)
    assert toys.calls(tmp_path / "log")[:2] == ["0", "1"] and "4" not in toys.calls(tmp_path / "log")
    gone(tmp_path / "log")


def test_any_exception_of_a_worker_is_raised_with_its_place(toys, tmp_path):
    with pytest.raises(RuntimeError, match="Unpicklable") as caught:
        gathered(Processes(1), toys.Toy(tmp_path / "log", fate={0: "breaks"}), 1)
    assert "toy_workers.py" in str(caught.value.__cause__)


def test_a_block_that_kills_every_worker_is_given_up(toys, tmp_path):
    with pytest.raises(CokvError, match=r"3 workers died at block 0 .exit code -9"):
        gathered(Processes(1), toys.Toy(tmp_path / "log", fate={0: "dies"}), 2)


def test_a_worker_that_ends_without_a_word_is_given_up_too(toys, tmp_path):
    with pytest.raises(CokvError, match=r"3 workers died at block 0 .exit code 0.*use fewer workers"):
        gathered(Processes(1), toys.Toy(tmp_path / "log", fate={0: "exits"}), 2)


def test_a_dead_worker_whose_child_lives_is_not_waited_for(toys, tmp_path):
    start = time.monotonic()
    assert len(gathered(Processes(2), toys.Toy(tmp_path / "log", fate={1: "leaves a child"}), 4)) == 4
    assert time.monotonic() - start < 25, "the child lives for 30 seconds"


def test_closing_early_ends_the_workers(toys, tmp_path):
    results = Processes(1).map_blocks(toys.Toy(tmp_path / "log", 0.05), blocks(50))
    next(results)
    results.close()
    gone(tmp_path / "log")
    assert len(toys.calls(tmp_path / "log")) < 10


def gone(log: Path) -> None:
    """No worker that wrote to the log is alive."""
    for pid in {int(line.split()[0]) for line in log.read_text().splitlines()}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_nothing_to_do_makes_no_worker(toys, tmp_path):
    for pool in (InProcess(), Processes(2)):
        assert list(pool.map_blocks(toys.Toy(tmp_path / "log"), [])) == []
    assert not (tmp_path / "log").exists()


def test_no_workers_are_refused():
    with pytest.raises(CokvError, match="at least 1"):
        Processes(0)


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CokvError, match=r"pip install 'cokv\[ray\]'"):
        OnRay()


def test_the_core_imports_no_ray():
    code = "import sys, cokv.cluster.on_ray, suite.cli.main; print('ray' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("address", ["WRONG:ADDRESS", "nowhere", "10.0.0.1:99999", "host:6379/x", "", "::1:6379"])
def test_what_is_no_address_is_refused(monkeypatch, address):
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.exceptions", types.ModuleType("ray.exceptions"))
    with pytest.raises(CokvError, match=r"expected 'auto' or host:port"):
        OnRay(address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"\0\0\x06\x04\0\0\0\0\0", ""), (b"HTTP/1.1 400 Bad Request", "something else"), (b"", "something else")],
)
def test_what_is_no_cluster_is_said_at_once(monkeypatch, scheme, answer, message):
    """The first answer is how a gRPC server begins, the others are of a web server and of one that hangs up."""
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.exceptions", types.ModuleType("ray.exceptions"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(CokvError, match=message) if message else nullcontext():
            OnRay(address)
        thread.join(10)
    with pytest.raises(CokvError, match=rf"^no Ray cluster at '{address}' .*refused.*'auto'$"):
        OnRay(address)


def test_silence_is_not_waited_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.exceptions", types.ModuleType("ray.exceptions"))
    monkeypatch.setattr("cokv.cluster.on_ray.REPLY_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(CokvError, match="timed out"):
        OnRay(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.fixture
def two_nodes(monkeypatch):
    """A local Ray cluster of two nodes with one CPU each."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'cokv[ray]')")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    cluster.wait_for_nodes()
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_on_ray_a_killed_workers_block_is_done_elsewhere(toys, tmp_path, two_nodes):
    alone = gathered(InProcess(), toys.Toy(tmp_path / "alone"), 12)
    log, numbers, killed = tmp_path / "ray", {}, 0
    for index, (_, utilities) in OnRay(two_nodes).map_blocks(toys.Toy(log, 0.1), blocks(12)):
        numbers[index] = utilities.tobytes()
        if len(numbers) in (3, 7):  # whoever began last is at work
            os.kill(int(log.read_text().splitlines()[-1].split()[0]), signal.SIGKILL)
            killed += 1
            time.sleep(0.1)
    assert killed == 2 and numbers == alone
    counts = begun(toys, log)
    assert set(counts) == set(range(12)) and sum(counts.values()) <= 12 + killed
    refused = toys.Toy(tmp_path / "refused", fate={1: "refuses"})
    with pytest.raises(CokvError, match=r"^this block is refused; choose another$"):
        gathered(OnRay(two_nodes), refused, 5)
    with pytest.raises(CokvError, match="need a CPU each"):
        gathered(OnRay(two_nodes, workers=9), toys.Toy(tmp_path / "many"), 9)


LOST = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
import numpy as np
import toy_workers
from cokv.cluster.on_ray import OnRay
from cokv.types import CokvError

def kill(name):
    command = ["ps", "-ww", "-eo", "pid,ppid,args"]  # whole lines, however narrow the terminal
    for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[1:]:
        pid, parent, command = line.split(None, 2)
        if int(parent) == os.getpid() and name in command:
            os.kill(int(pid), signal.SIGKILL)

blocks, killed, answers = list(enumerate(np.ones((400, 4, 12), bool))), 0.0, 0
try:
    for _ in OnRay("local").map_blocks(toy_workers.Toy(Path(sys.argv[2]), 0.3), blocks):
        answers += 1
        if answers == 2:
            killed = time.monotonic()
            kill(sys.argv[1])
except CokvError as error:
    print(f"{time.monotonic() - killed:.0f} {error}")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("daemon", "message"), [("raylet/raylet", "Ray daemon of this machine"), ("gcs_server", "its head does not answer")]
)
def test_a_lost_ray_daemon_ends_in_one_line_within_a_minute(tmp_path, daemon, message):
    """In a process of its own, since Ray ends with it."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'cokv[ray]')")
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOST, daemon, str(tmp_path / "log")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    (line,) = [line for line in done.stdout.splitlines() if "the Ray cluster is lost" in line]
    seconds, _, said = line.partition(" ")
    assert int(seconds) < 60 and message in said and "run the same command again" in said
    assert done.returncode == 0
