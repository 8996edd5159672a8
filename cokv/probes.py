"""Measurement: time, memory and energy of a section of code; fair timing of several arms; what machine this is.

What cannot be measured on a machine is absent from the result, never 0: without an NVIDIA driver there is no NVML, a
CPU build of torch has no CUDA peaks, and only Linux lets a process reset its peak resident size.

    with measure("cuda:0") as m:
        work()
    m.result  # {"seconds": ..., "rss_peak_bytes": ..., "cuda_peak_bytes": ..., "energy_joules": ...}

Does not know: what ran beside us. NVML's memory and energy are the whole device's, other processes included. Sections
do not nest: the peaks are per process, and an inner section would reset those of the outer one.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cokv import __version__

if TYPE_CHECKING:
    import torch

Result = dict[str, float | int]

# Everything whose version can change an answer or a time.
DISTRIBUTIONS = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "rouge", "jieba", "flash-attn", "triton"),
)


@dataclass
class Measurement:
    """Filled when its section ends without an exception."""

    result: Result = field(default_factory=dict)


@contextmanager
def measure(device: str | torch.device = "cpu") -> Iterator[Measurement]:
    """Measure the section inside the `with`, on `device`, waiting for its queued work at both ends.

    Keys, each present only where measurable: seconds; rss_start_bytes and rss_peak_bytes (this process);
    cuda_start_bytes, cuda_peak_bytes (allocated tensors) and cuda_reserved_peak_bytes (what the allocator took);
    device_used_bytes (NVML, at the end) and energy_joules (NVML, over the section).
    """
    name = str(device)
    measurement = Measurement()
    result: Result = {}
    synchronize(name)
    if _reset_cuda_peak(name):
        result["cuda_start_bytes"] = _cuda().memory_allocated(name)
    rss_resets = _reset_rss_peak()
    if rss_resets:
        result |= _present("rss_start_bytes", _status_bytes("VmRSS"))
    with _nvml_device(name) as nvml:
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
    if rss_resets:
        result |= _present("rss_peak_bytes", _status_bytes("VmHWM"))
    if "cuda_start_bytes" in result:
        result["cuda_peak_bytes"] = _cuda().max_memory_allocated(name)
        result["cuda_reserved_peak_bytes"] = _cuda().max_memory_reserved(name)
    measurement.result.update(result)


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


def resident_bytes() -> int | None:
    """What this process holds of the machine's memory now; None where the system does not say."""
    return _status_bytes("VmRSS")


def synchronize(device: str | torch.device = "cpu") -> None:
    """Wait for the work queued on a CUDA device; nothing to wait for elsewhere, or where there is no CUDA."""
    if str(device).startswith("cuda") and _cuda().is_available():
        _cuda().synchronize(device)


def machine() -> dict[str, Any]:
    """The hardware, without host names or paths. What the system does not tell is absent."""
    out: dict[str, Any] = {"system": platform.system(), "architecture": platform.machine()}
    out |= _present("processor", _processor_name())
    out |= _present("cpus", os.cpu_count())
    if hasattr(os, "sched_getaffinity"):
        out["cpus_usable"] = len(os.sched_getaffinity(0))
    with suppress(ValueError, OSError, AttributeError):
        out["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if "torch" in sys.modules:
        out["torch_threads"] = sys.modules["torch"].get_num_threads()
    return out | _present("gpus", _gpus() or None)


def versions() -> dict[str, str]:
    """Python, this package, installed or not, and the installed libraries of DISTRIBUTIONS; others are absent."""
    out = {"python": platform.python_version(), "cokv": __version__}
    for name in DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    if "torch" in sys.modules and sys.modules["torch"].version.cuda:
        out["cuda"] = str(sys.modules["torch"].version.cuda)
    return out


def _present(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}


def _cuda() -> Any:
    import torch

    return torch.cuda


def _reset_cuda_peak(device: str) -> bool:
    """Whether there are peaks to read; the call itself raises on a CPU build of torch, so that is asked first."""
    if not device.startswith("cuda") or not _cuda().is_available():
        return False
    _cuda().reset_peak_memory_stats(device)
    return True


def _reset_rss_peak() -> bool:
    """Set the peak resident size (VmHWM) back to the present one; proc(5), /proc/pid/clear_refs, value 5."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(name: str) -> int | None:
    """A size of /proc/self/status, given there in KiB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _processor_name() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or None


@dataclass(frozen=True)
class _Nvml:
    """One device as NVML sees it; None where the device cannot tell (energy needs Volta or newer)."""

    library: Any
    handle: Any

    def _ask(self, question: str) -> Any:
        try:
            return getattr(self.library, question)(self.handle)
        except self.library.NVMLError:
            return None

    def energy_joules(self) -> float | None:
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def used_bytes(self) -> int | None:
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

    def describe(self) -> dict[str, Any]:
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        out = _present("name", self._ask("nvmlDeviceGetName"))
        return out | _present("memory_bytes", None if memory is None else int(memory.total))


@contextmanager
def _nvml_session() -> Iterator[Any | None]:
    """The pynvml module, initialized; None where it is not installed or finds no driver."""
    library = None
    with suppress(ImportError):
        import pynvml

        with suppress(pynvml.NVMLError):  # without a driver: NVMLError_LibraryNotFound
            pynvml.nvmlInit()
            library = pynvml
    try:
        yield library
    finally:
        if library is not None:
            library.nvmlShutdown()


@contextmanager
def _nvml_device(device: str) -> Iterator[_Nvml | None]:
    """NVML's handle of a torch device. By its UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices but not NVML's."""
    if not device.startswith("cuda"):
        yield None
        return
    with _nvml_session() as library:
        device_handle = None
        if library is not None:
            with suppress(library.NVMLError, RuntimeError, AssertionError, AttributeError):
                uuid = _cuda().get_device_properties(device).uuid
                device_handle = _Nvml(library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        yield device_handle


def _gpus() -> list[dict[str, Any]]:
    with _nvml_session() as library:
        if library is None:
            return []
        with suppress(library.NVMLError):
            driver = _present("driver", library.nvmlSystemGetDriverVersion())
            handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
            return [_Nvml(library, handle).describe() | driver for handle in handles]
        return []
