"""What NVML, the driver's management library, says of a device. Absent without pynvml, a driver or an answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cokv.probes import torch_cuda


@dataclass(frozen=True)
class NvmlDevice:
    """One device as NVML sees it; None where the device cannot tell (energy needs Volta or newer)."""

    library: Any
    handle: Any

    def _ask(self, question: str, *more: Any) -> Any:
        """The answer; None where this driver has no such question, or the device no answer."""
        asked = getattr(self.library, question, None)
        if asked is None:
            return None
        try:
            return asked(self.handle, *more)
        except self.library.NVMLError:
            return None

    def energy_joules(self) -> float | None:
        """Since the driver was loaded; the device's, whoever used it."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def used_bytes(self) -> int | None:
        """Of the device's memory, by all processes."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

    def process_bytes(self) -> int | None:
        """Of the device's memory, by this process. In a container whose processes are numbered anew, and on Windows,
        a driver does not say whose is whose.
        """
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        own = [p for p in processes or () if p.pid == os.getpid() and p.usedGpuMemory is not None]
        return sum(int(process.usedGpuMemory) for process in own) if own else None

    def power_watts(self) -> float | None:
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000

    def utilization(self) -> float | None:
        """The share of the driver's last sampling period in which a kernel ran, 0 to 1."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return None if rates is None else rates.gpu / 100

    def clock_mhz(self) -> int | None:
        """Of the multiprocessors."""
        mhz = self._ask("nvmlDeviceGetClockInfo", getattr(self.library, "NVML_CLOCK_SM", 1))
        return None if mhz is None else int(mhz)

    def describe(self) -> dict[str, Any]:
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        facts = {"name": self._ask("nvmlDeviceGetName"), "memory_bytes": None if memory is None else int(memory.total)}
        return {key: value for key, value in facts.items() if value is not None}


@contextmanager
def nvml_session() -> Iterator[Any | None]:
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
def nvml_devices(devices: Iterable[str]) -> Iterator[dict[str, NvmlDevice]]:
    """NVML's handles of torch devices, those it has. By UUID: CUDA_VISIBLE_DEVICES renumbers torch's, not NVML's."""
    wanted = [name for name in dict.fromkeys(devices) if name.startswith("cuda")]
    if not wanted:
        yield {}
        return
    with nvml_session() as library:
        by_name: dict[str, NvmlDevice] = {}
        if library is None:
            yield by_name
            return
        for name in wanted:
            with suppress(library.NVMLError, RuntimeError, AssertionError, AttributeError):
                uuid = torch_cuda.cuda().get_device_properties(name).uuid
                by_name[name] = NvmlDevice(library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        yield by_name


def gpus() -> list[dict[str, Any]]:
    """Every GPU of the machine, as the driver describes it."""
    with nvml_session() as library:
        if library is None:
            return []
        with suppress(library.NVMLError):
            driver = {"driver": library.nvmlSystemGetDriverVersion()}
            handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
            return [NvmlDevice(library, handle).describe() | driver for handle in handles]
        return []
