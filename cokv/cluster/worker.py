"""What runs inside a worker process of any pool, and its two outcomes: a result or an exception.

Imports nothing heavy: a worker loads what it needs itself, under its share of the threads.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cokv.cluster import MakeWorker, Worker


@dataclass(frozen=True)
class Outcome:
    """A result, or the exception and its traceback as text."""

    result: Any = None
    error: BaseException | None = None
    trace: str = ""

    def value(self) -> Any:
        """The result; raises the worker's exception."""
        if self.error is not None:
            raise self.error from _InWorker(self.trace)
        return self.result


class _InWorker(Exception):
    """Carries a worker's traceback, so that it is printed with the exception."""

    def __str__(self) -> str:
        return f'in a worker:\n"""\n{self.args[0]}"""'


class WorkerHost:
    """Makes the worker at the first block, with its share of the threads, and runs it on every block."""

    def __init__(self, make_worker: MakeWorker, device: str, threads: int) -> None:
        self.make_worker, self.device, self.threads = make_worker, device, threads
        self.worker: Worker | None = None

    def pid(self) -> int:
        return os.getpid()

    def run(self, block: Any) -> Outcome:
        try:
            if self.worker is None:
                self._share_threads()
                self.worker = self.make_worker(self.device)
                self._share_threads()
            return Outcome(self.worker(block))
        except Exception as error:
            trace = traceback.format_exc()
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                error = RuntimeError(f"{type(error).__name__}: {error}")
            return Outcome(error=error, trace=trace)

    def _share_threads(self) -> None:
        """By the environment before torch is loaded, by torch after."""
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.threads)


def serve(pipe: Connection, make_worker: MakeWorker, device: str, threads: int) -> None:
    """Sends the outcome of each block until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    host = WorkerHost(make_worker, device, threads)
    while True:
        try:
            pipe.send(host.run(pipe.recv()))
        except (EOFError, OSError):  # the parent has ended, or closed its end
            return
