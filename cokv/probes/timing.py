"""Time: several arms in turns, ratios formed turn by turn, and when each step of a row of steps was done."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cokv.probes import torch_cuda

if TYPE_CHECKING:
    import torch


def interleaved(
    arms: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1, device: str | torch.device = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every arm, run in turns A B C A B C ..., so that a drift of the machine meets all arms alike.

    Every arm first runs `warmup` times untimed (compilation, allocation, caches), then `repeats` times timed.
    """
    if not arms or repeats < 1 or warmup < 0:
        raise ValueError(
            f"got {len(arms)} arms, repeats={repeats}, warmup={warmup}; expected an arm, repeats >= 1, warmup >= 0"
        )
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(warmup + repeats):
        for name, arm in arms.items():
            synchronize(device)
            start_session = time.perf_counter()
            arm()
            synchronize(device)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start_session)
    return seconds


def ratio_summary(seconds: Mapping[str, list[float]], arm: str, baseline: str) -> dict[str, float]:
    """Median, min and max of arm / baseline, formed turn by turn: the two runs of a turn saw the same machine."""
    for name in (arm, baseline):
        if name not in seconds:
            raise ValueError(f"no arm {name!r} was timed; available: {', '.join(sorted(seconds))}")
    ours, theirs = seconds[arm], seconds[baseline]
    if len(ours) != len(theirs) or not ours:
        raise ValueError(
            f"{arm!r} and {baseline!r} have {len(ours)} and {len(theirs)} runs; expected as many, 1 or more"
        )
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind the tensors; one that several tensors (views, slices) share is counted once."""
    sizes = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        sizes[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def synchronize(device: str | torch.device = "cpu") -> None:
    """Wait for the work queued on a CUDA device; nothing to wait for elsewhere, or where there is no CUDA."""
    if str(device).startswith("cuda") and torch_cuda.cuda().is_available():
        torch_cuda.cuda().synchronize(device)


class Marks:
    """When the work of each step was done: seconds between marks, without a wait for the device in between.

        marks = Marks(device)
        marks.mark()                     # where the first step begins
        for ...: step(); marks.mark()
        marks.seconds()                  # of each step

    On a CUDA device a mark is an event of its current stream, elsewhere the clock.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = str(device)
        self.on_cuda = self.device.startswith("cuda") and torch_cuda.cuda().is_available()
        self.marks: list[Any] = []

    def mark(self) -> None:
        if not self.on_cuda:
            self.marks.append(time.perf_counter())
            return
        event = torch_cuda.cuda().Event(enable_timing=True)
        event.record(torch_cuda.cuda().current_stream(self.device))
        self.marks.append(event)

    def seconds(self) -> list[float]:
        """Between each mark and the next; waits for the last."""
        if not self.on_cuda:
            return [after - before for before, after in pairwise(self.marks)]
        synchronize(self.device)
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(self.marks)]
