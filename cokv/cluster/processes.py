"""Several processes on this machine, each with its own copy of the model: one per GPU, or sharing CPUs."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from cokv.cluster import MakeWorker
from cokv.cluster.failures import WorkerFailures
from cokv.cluster.worker import Outcome, serve
from cokv.types import CokvError

LOOK_INTERVAL = 2.0  # seconds between two looks at who is alive


@dataclass(frozen=True)
class Processes:
    """`workers` processes. With device "cuda" they take the GPUs in turn; on CPUs they divide torch's threads.

    `threads`: of each worker, instead of its share.
    """

    workers: int
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise CokvError(f"{self.workers} workers were asked for, expected at least 1")

    def map_blocks(self, make_worker: MakeWorker, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        waiting, failures = deque(range(len(blocks))), WorkerFailures()
        team: dict[Connection, _Member] = {}
        try:
            for device in self._devices()[: len(blocks)]:
                self._start(team, make_worker, device, waiting.popleft(), blocks)
            while team:
                for pipe in _ready(team):
                    member = team[pipe]
                    try:
                        if not pipe.poll():
                            raise EOFError
                        outcome: Outcome = pipe.recv()
                    except (EOFError, OSError):
                        del team[pipe]
                        member.process.join()
                        failures.add(member.block, f"exit code {member.process.exitcode}")
                        self._start(team, make_worker, member.device, member.block, blocks)
                        continue
                    index, result = member.block, outcome.value()
                    if waiting:
                        member.take(waiting.popleft(), blocks)
                    else:
                        del team[pipe]
                        member.end()
                    yield index, result
        finally:
            for member in team.values():
                member.process.kill()
                member.end()

    @property
    def worker_threads(self) -> int:
        """CPU threads of each worker."""
        import torch

        return self.threads or max(1, torch.get_num_threads() // self.workers)

    def _devices(self) -> list[str]:
        if self.device != "cuda":
            return [self.device] * self.workers
        import torch

        return [f"cuda:{worker % max(torch.cuda.device_count(), 1)}" for worker in range(self.workers)]

    def _start(
        self,
        team: dict[Connection, _Member],
        make_worker: MakeWorker,
        device: str,
        block: int,
        blocks: Sequence[Any],
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang, and CUDA cannot be forked at all
        own_end, worker_end = context.Pipe()
        arguments = (worker_end, make_worker, device, self.worker_threads)
        process = context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        worker_end.close()  # so that the worker's death is the end of the pipe
        member = _Member(process, own_end, device, block)
        team[own_end] = member
        member.take(block, blocks)


def _ready(team: dict[Connection, _Member]) -> list[Connection]:
    """The pipes of workers that have an answer or are dead. A dead worker's pipe may stay open in its children."""
    ready = wait(list(team), timeout=LOOK_INTERVAL)
    return [pipe for pipe, member in team.items() if pipe in ready or not member.process.is_alive()]


@dataclass(eq=False)
class _Member:
    process: BaseProcess
    pipe: Connection
    device: str
    block: int

    def take(self, block: int, blocks: Sequence[Any]) -> None:
        self.block = block
        with suppress(OSError):  # the process has died: the next read from the pipe fails
            self.pipe.send(blocks[block])

    def end(self) -> None:
        self.pipe.close()
        self.process.join()
