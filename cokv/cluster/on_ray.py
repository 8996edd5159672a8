"""A Ray cluster, or a local one started for the run: one actor per device, which keeps its worker between blocks.

Written for Ray 2.40 and later (`pip install 'cokv[ray]'`); nothing here is imported without it. Every machine of the
cluster needs the same cokv installed.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cokv.cluster import MakeWorker
from cokv.cluster.failures import WorkerFailures
from cokv.cluster.ray_health import CHECK_INTERVAL, CLOSE_TIMEOUT, check_alive, leave, within
from cokv.cluster.worker import Outcome, WorkerHost
from cokv.types import CokvError

START_TIMEOUT = 600.0  # seconds that blocks may wait while no actor starts
LOSS_TIMEOUT = 40.0  # the same where no node could hold one: those that could have been lost
REPLY_TIMEOUT = 3.0  # seconds within which a cluster's port answers
# HTTP/2, which Ray's gRPC uses: the client's preface and an empty SETTINGS frame
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_FRAME = 4  # the type of the frame that an HTTP/2 server begins with, its fourth byte (RFC 9113, 3.4 and 4.1)


@dataclass(frozen=True)
class OnRay:
    """`address`: of a running cluster; "auto" uses a running one if there is one, else starts one on this machine.

    With device "cuda" each actor owns one GPU, and by default there are as many as GPUs; on CPUs one per machine. More
    CPU actors share a machine's CPUs.
    """

    address: str = "auto"
    workers: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise CokvError(f"{self.workers} workers were asked for, expected at least 1")
        load_ray()
        check_address(self.address)

    @property
    def worker_threads(self) -> int | None:
        """CPU threads of each worker; None: as many as the cluster gives it."""
        return int(os.environ.get("OMP_NUM_THREADS", "0")) or None

    def map_blocks(self, make_worker: MakeWorker, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        if not blocks:
            return
        ray = load_ray()
        with connected(self.address):
            count, resources, threads = self._actors(ray.nodes())
            actor_class = ray.remote(**resources, max_restarts=0, scheduling_strategy="SPREAD")(WorkerHost)
            kind = "cuda" if self.device.startswith("cuda") else self.device  # Ray shows an actor its own GPU only

            def start() -> tuple[Any, Any]:
                actor = actor_class.remote(make_worker, kind, threads)
                return actor.pid.remote(), actor

            # by the pending call that returns once the actor runs
            starting = dict(start() for _ in range(min(count, len(blocks))))
            try:
                yield from _work(ray, start, starting, blocks, resources)
            finally:
                with suppress(Exception):  # of a lost cluster they are gone
                    within(CLOSE_TIMEOUT, lambda: [ray.kill(actor) for actor in starting.values()])

    def _actors(self, nodes: list[dict[str, Any]]) -> tuple[int, dict[str, float], int]:
        """How many actors, the Ray resources of each, and its CPU threads."""
        node_resources = [node["Resources"] for node in nodes if node["Alive"]]
        threads = self.worker_threads
        if self.device.startswith("cuda"):
            gpus = int(sum(r.get("GPU", 0) for r in node_resources))
            count = self.workers or gpus
            if not 0 < count <= gpus:
                raise CokvError(f"{count or 'some'} workers need a GPU each, the Ray cluster has {gpus}; add machines")
            return count, {"num_gpus": 1}, threads or 1
        cpus = [int(r.get("CPU", 0)) for r in node_resources]
        count = self.workers or max(1, sum(c > 0 for c in cpus))
        share = next((k for k in range(max(cpus, default=0), 0, -1) if sum(c // k for c in cpus) >= count), None)
        if share is None:
            raise CokvError(f"{count} workers need a CPU each, the Ray cluster has {sum(cpus)}; use fewer --workers")
        return count, {"num_cpus": share}, threads or share


def _work(
    ray: Any, start: Any, starting: dict[Any, Any], blocks: Sequence[Any], resources: dict[str, float]
) -> Iterator[tuple[int, Any]]:
    """Gives blocks to free actors. An actor gets its first block once it runs, so that one waiting for resources holds
    no block. In the end `starting` holds the actors that are alive.
    """
    waiting, failures, last_answer = deque(range(len(blocks))), WorkerFailures(), time.monotonic()
    home, last_check = ray.get_runtime_context().get_node_id(), time.monotonic()
    busy: dict[Any, tuple[Any, int]] = {}
    try:
        while waiting or busy:
            ready_calls, _ = ray.wait([*busy, *starting], num_returns=1, timeout=5.0)
            if time.monotonic() - last_check > CHECK_INTERVAL:
                check_alive(ray, home)
                last_check = time.monotonic()
            if not ready_calls:
                waited = time.monotonic() - last_answer
                if not busy and (waited > START_TIMEOUT or (waited > LOSS_TIMEOUT and not _has(ray, resources))):
                    total, free = _cpus_and_gpus(ray.cluster_resources()), _cpus_and_gpus(ray.available_resources())
                    raise CokvError(
                        f"no actor with {resources} has started on the Ray cluster for {waited:.0f} s, expected "
                        f"room for one; of {total} are free {free}"
                    )
                continue
            last_answer, (ready_call,) = time.monotonic(), ready_calls
            actor, index = busy.pop(ready_call) if ready_call in busy else (starting.pop(ready_call), None)
            try:
                outcome = ray.get(ready_call)
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                failures.add(index, _last_line(error))
                if index is not None:
                    waiting.appendleft(index)
                starting.update([start()])
                continue
            failures.reset(index)
            if waiting:
                following = waiting.popleft()
                busy[actor.run.remote(blocks[following])] = actor, following
            else:
                ray.kill(actor)
            if index is not None:
                assert isinstance(outcome, Outcome)
                yield index, outcome.value()
    finally:
        starting.update((ready_call, actor) for ready_call, (actor, _) in busy.items())


def _has(ray: Any, resources: dict[str, float]) -> bool:
    """Whether any node that is alive could ever hold an actor."""
    needed = {"num_cpus": "CPU", "num_gpus": "GPU"}
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(needed[name], 0) >= count for name, count in resources.items()) for node in alive)


def _cpus_and_gpus(resources: dict[str, float]) -> dict[str, float]:
    """CPUs and GPUs only."""
    return {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}


def _last_line(error: Exception) -> str:
    """Ray's message about a dead actor, without its colours."""
    return re.sub("\x1b\\[[0-9;]*m", "", (str(error).strip() or type(error).__name__).splitlines()[-1].strip())[:300]


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection within the context; an open one is used and left open."""
    ray = load_ray()
    if ray.is_initialized():
        yield
        return
    check_address(address)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if address != "auto" or not isinstance(error, ConnectionError):
            raise CokvError(
                f"no Ray cluster at {address!r} ({' '.join(str(error).split())[:200]}); "
                "give the address of a running one, or 'auto'"
            ) from None
        ray.init(address="local", include_dashboard=False, **quiet)
    try:
        yield
    finally:
        leave(ray)


def check_address(address: str) -> None:
    """Raises CokvError unless the address answers as a Ray cluster does: Ray itself would try for minutes."""
    if address in ("auto", "local"):
        return
    match = re.fullmatch(r"(?:ray://)?(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})", address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise CokvError(
            f"{address!r} is no address of a Ray cluster, expected 'auto' or host:port such as 10.0.0.1:6379"
        )
    try:
        with socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=REPLY_TIMEOUT) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("1", "true", "True"):  # else nothing is sent in the clear
                connection.sendall(HTTP2_PREFACE)
                reply = connection.recv(9)
                if len(reply) < 4 or reply[3] != SETTINGS_FRAME:
                    raise OSError("something else answers there")
    except (OSError, UnicodeError) as error:
        raise CokvError(
            f"no Ray cluster at {address!r} ({getattr(error, 'strerror', None) or error}); give the address of a "
            "running one, or 'auto'"
        ) from None


def load_ray() -> Any:
    """The ray package. Raises CokvError with the install command where it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network access
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise CokvError("this needs Ray, which is not installed; run: pip install 'cokv[ray]'") from None
    return ray
