"""One section of code: its seconds, the peaks of its memory, the joules of its device.

Does not know: what ran beside us. NVML's memory and energy are the whole device's, other processes included. Sections
do not nest: the peaks are per process, and an inner section would reset those of the outer one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cokv.probes import process, torch_cuda
from cokv.probes.nvml import nvml_devices
from cokv.probes.timing import synchronize

if TYPE_CHECKING:
    import torch

Result = dict[str, float | int]


@dataclass
class Measurement:
    """Filled when its section ends without an exception."""

    result: Result = field(default_factory=dict)


@contextmanager
def measure(device: str | torch.device = "cpu") -> Iterator[Measurement]:
    """Measure the section inside the `with`, on `device`, waiting for its queued work at both ends.

    Keys, each present only where measurable: seconds; rss_start_bytes and rss_peak_bytes (this process);
    cuda_start_bytes, cuda_peak_bytes (allocated tensors) and cuda_reserved_peak_bytes (what the allocator took);
    device_used_bytes and process_used_bytes (NVML, at the end) and energy_joules (NVML, over the section; its counter
    moves every tenth of a second or so, so that a shorter section may show nothing).
    """
    name = str(device)
    measurement = Measurement()
    result: Result = {}
    synchronize(name)
    if torch_cuda.reset_cuda_peak(name):
        result["cuda_start_bytes"] = torch_cuda.cuda().memory_allocated(name)
    rss_resets = process.reset_rss_peak()
    if rss_resets:
        result |= _present("rss_start_bytes", process.status_bytes("VmRSS"))
    with nvml_devices([name]) as devices:
        nvml = devices.get(name)
        energy = nvml.energy_joules() if nvml else None
        start_session = time.perf_counter()
        yield measurement
        synchronize(name)
        result["seconds"] = time.perf_counter() - start_session
        if nvml:
            ended = nvml.energy_joules()
            if energy is not None and ended is not None:
                result["energy_joules"] = ended - energy
            result |= _present("device_used_bytes", nvml.used_bytes())
            result |= _present("process_used_bytes", nvml.process_bytes())
    if rss_resets:
        result |= _present("rss_peak_bytes", process.status_bytes("VmHWM"))
    if "cuda_start_bytes" in result:
        result["cuda_peak_bytes"] = torch_cuda.cuda().max_memory_allocated(name)
        result["cuda_reserved_peak_bytes"] = torch_cuda.cuda().max_memory_reserved(name)
    measurement.result.update(result)


def _present(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}
