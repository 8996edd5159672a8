"""The same work in one process, in several, or on a Ray cluster: blocks go in, results come out as they are ready.

    for index, result in pool.map_blocks(make_worker, blocks):
        ...                                                       # the caller alone stores results

`make_worker(device)` is called once in every worker: it loads what the work needs and returns a function from a block
to its result. Which worker gets which block, and in which order, is not fixed, so a result must depend on its block
alone. Then all pools give the same results, to the last bit at the same number of threads per worker. Closing the
iterator early ends the workers.

A worker that dies (SIGKILL, out of memory, a lost machine) is replaced and its block done again. An exception in a
worker ends the run and is raised in the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Worker = Callable[[Any], Any]
MakeWorker = Callable[[str], Worker]


class Pool(Protocol):
    """A way to run workers. What is sent to other processes is pickled: importable functions, plain data."""

    def map_blocks(self, make_worker: MakeWorker, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(index of a block, its result), each block once, in any order."""
        ...


@dataclass(frozen=True)
class InProcess:
    """In this process, one block after the other."""

    device: str = "cpu"

    def map_blocks(self, make_worker: MakeWorker, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        worker = make_worker(self.device) if blocks else None
        for index, block in enumerate(blocks):
            assert worker is not None
            yield index, worker(block)
