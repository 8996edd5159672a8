"""A thread beside a section that looks at the process and its GPUs every so often: what peaks alone do not tell.

NVML answers in some ten microseconds to a millisecond, so at the default of ten times a second a sample costs well
under a hundredth of the time (`benchmarks/probe_cost.py` measures it). Between two samples it sees nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from cokv.probes import process, torch_cuda
from cokv.probes.nvml import NvmlDevice, nvml_devices

INTERVAL = 0.1  # seconds between two samples
Series = list[tuple[float, float]]  # (seconds since the first sample, value)

READINGS: Mapping[str, Callable[[NvmlDevice], float | None]] = {
    "process_bytes": NvmlDevice.process_bytes,
    "device_bytes": NvmlDevice.used_bytes,
    "power_watts": NvmlDevice.power_watts,
    "utilization": NvmlDevice.utilization,
    "clock_mhz": NvmlDevice.clock_mhz,
}


@dataclass
class Samples:
    """`series`: what was seen, by device ("process" for the process) and reading. `result`: filled at the end."""

    interval: float
    series: dict[str, dict[str, Series]] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def note(self, device: str, reading: str, seconds: float, value: float | None) -> None:
        if value is not None:
            self.series.setdefault(device, {}).setdefault(reading, []).append((seconds, float(value)))

    def finish(self, count: int, seconds: float, busy: float) -> None:
        """busy: seconds in which the thread was looking, of all."""
        self.result = {"samples": count, "seconds": seconds, "share_of_time_sampling": busy / seconds}
        for device, readings in self.series.items():
            self.result[device] = {name: _shape(series) for name, series in readings.items()}
            power = readings.get("power_watts", [])
            if len(power) > 1:
                self.result[device]["energy_joules"] = _area(power)


def every_gpu() -> list[str]:
    """The CUDA devices on which this process has begun work: those where torch holds a context."""
    cuda = torch_cuda.cuda()
    if not cuda.is_available() or not cuda.is_initialized():
        return []
    return [f"cuda:{i}" for i in range(cuda.device_count()) if cuda.memory_reserved(i)]


@contextmanager
def sampled(devices: Iterable[str] | None = None, interval: float = INTERVAL) -> Iterator[Samples]:
    """Samples the section inside the `with`: this process, and these CUDA devices (all that it uses, when left out).

    interval: seconds. The result has, for "process" its rss_bytes, and for each device that NVML knows process_bytes,
    device_bytes, power_watts, utilization (0 to 1) and clock_mhz, each as {"mean", "min", "max"} over time, and
    energy_joules, the area under the power; what cannot be read is absent. The first sample is taken before the
    section, the last behind it. Raises ValueError for an interval that is not positive.
    """
    if not interval > 0:
        raise ValueError(f"interval is {interval} s, expected more than 0")
    samples = Samples(interval)
    wanted = [str(device) for device in (every_gpu() if devices is None else devices)]
    with nvml_devices(wanted) as by_name:
        begun, stop = time.perf_counter(), threading.Event()
        busy: list[float] = []

        def look() -> None:
            start = time.perf_counter()
            samples.note("process", "rss_bytes", start - begun, process.resident_bytes())
            for name, device in by_name.items():
                for reading, read in READINGS.items():
                    samples.note(name, reading, start - begun, read(device))
            busy.append(time.perf_counter() - start)

        def watch() -> None:
            while not stop.wait(interval):
                look()

        look()
        thread = threading.Thread(target=watch, name="cokv probes", daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            stop.set()
            thread.join()
            look()
            samples.finish(len(busy), time.perf_counter() - begun, sum(busy))


def _shape(series: Series) -> dict[str, float]:
    values = [value for _, value in series]
    return {"mean": sum(values) / len(values), "min": min(values), "max": max(values)}


def _area(series: Series) -> float:
    """Under the line through the samples."""
    return sum((after - before) * (low + high) / 2 for (before, low), (after, high) in pairwise(series))
