"""Probes: what is measured is right, and what cannot be measured is absent."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from cokv.probes import Marks, interleaved, machine, measure, ratio_summary, sampled, storage_bytes, versions

LINUX = sys.platform.startswith("linux")


def test_seconds_are_those_of_the_section() -> None:
    with measure() as m:
        time.sleep(0.05)
    assert 0.05 <= m.result["seconds"] < 1.0


def test_a_failed_section_has_no_result() -> None:
    with pytest.raises(ZeroDivisionError), measure() as m:
        _ = 1 / 0
    assert m.result == {}


@pytest.mark.skipif(not LINUX, reason="the peak of a section needs /proc/self/clear_refs")
def test_resident_peak_is_the_section_s_own() -> None:
    size = 64 * 2**20
    with measure() as big, mmap.mmap(-1, size) as block:  # not from the heap, which may have as much to spare
        block[::4096] = b"\x01" * (size // 4096)
    with measure() as small:
        pass
    if "rss_peak_bytes" not in big.result:
        pytest.skip("this kernel does not let the process reset its peak")
    assert big.result["rss_peak_bytes"] - big.result["rss_start_bytes"] >= 0.9 * size
    assert small.result["rss_peak_bytes"] < big.result["rss_peak_bytes"] - 0.5 * size


def test_without_clear_refs_the_resident_peak_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cokv.probes.process.reset_rss_peak", lambda: False)
    with measure() as m:
        pass
    assert set(m.result) == {"seconds"}


def test_on_a_cpu_nothing_of_a_gpu_is_reported() -> None:
    with measure("cpu") as m:
        pass
    assert not [key for key in m.result if "cuda" in key or "energy" in key or "device" in key]


def test_cuda_probes_are_absent_without_cuda() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with measure("cuda:0") as m:
        pass
    assert not [key for key in m.result if "cuda" in key or "energy" in key or "device" in key]


class _NoDriver:
    """pynvml on a machine without a driver."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        raise self.NVMLError("NVML Shared Library Not Found")


def test_without_a_driver_there_is_no_gpu_and_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _NoDriver())
    assert "gpus" not in machine()
    with measure("cuda:0") as m:
        pass
    assert "energy_joules" not in m.result and "device_used_bytes" not in m.result


def test_without_pynvml_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # makes the import fail
    assert "gpus" not in machine()


class _OneDevice:
    """pynvml with one device that counts 1.5 J per question; it knows its memory only when `has_memory`."""

    class NVMLError(Exception):
        pass

    def __init__(self, has_memory: bool) -> None:
        self.has_memory, self.opened, self.joules = has_memory, 0, 0

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"handle {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1234"
        return "handle 0"

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "Test GPU"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.joules += 1500
        return self.joules

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        if not self.has_memory:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(total=80 * 2**30, used=3 * 2**30)

    NVML_CLOCK_SM = 1

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> Any:
        """This process twice (two contexts), one whose size is withheld, and a stranger."""
        mine = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=size) for size in (2**30, 2**20, None)]
        return [*mine, SimpleNamespace(pid=-1, usedGpuMemory=7 * 2**30)]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self.watts = getattr(self, "watts", 90) + 10
        return 1000 * self.watts

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return 1980


class _Cuda:
    """The part of torch.cuda that the probes use."""

    def is_available(self) -> bool:
        return True

    def synchronize(self, device: str) -> None: ...

    def reset_peak_memory_stats(self, device: str) -> None: ...

    def memory_allocated(self, device: str) -> int:
        return 10

    def max_memory_allocated(self, device: str) -> int:
        return 30

    def max_memory_reserved(self, device: str) -> int:
        return 40

    def get_device_properties(self, device: str) -> Any:
        return SimpleNamespace(uuid="1234")

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def memory_reserved(self, device: int) -> int:
        return 100 if device == 0 else 0  # the second one has not been used


@pytest.mark.parametrize("has_memory", [True, False])
def test_with_a_device_energy_is_the_difference_and_memory_is_there_if_told(
    monkeypatch: pytest.MonkeyPatch, has_memory: bool
) -> None:
    library = _OneDevice(has_memory)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr("cokv.probes.torch_cuda.cuda", _Cuda)
    with measure("cuda:0") as m:
        pass
    assert m.result["energy_joules"] == 1.5
    assert (m.result["cuda_start_bytes"], m.result["cuda_peak_bytes"], m.result["cuda_reserved_peak_bytes"]) == (
        10,
        30,
        40,
    )
    assert m.result["process_used_bytes"] == 2**30 + 2**20
    assert m.result.get("device_used_bytes") == (3 * 2**30 if has_memory else None)
    expected: dict[str, Any] = {"name": "Test GPU", "driver": "580.1"}
    assert machine()["gpus"] == [expected | ({"memory_bytes": 80 * 2**30} if has_memory else {})]
    assert library.opened == 0, "every nvmlInit needs its nvmlShutdown"


def test_a_thread_samples_every_gpu_that_the_process_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    library = _OneDevice(has_memory=True)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr("cokv.probes.torch_cuda.cuda", _Cuda)
    with sampled(interval=0.005) as seen:
        time.sleep(0.06)
    assert seen.result["samples"] >= 4 and 0 < seen.result["share_of_time_sampling"] < 1
    device = seen.result["cuda:0"]
    assert "cuda:1" not in seen.result, "no work has been given to it"
    assert device["process_bytes"]["max"] == 2**30 + 2**20, "this process alone, both of its contexts"
    assert device["device_bytes"]["max"] == 3 * 2**30 and device["clock_mhz"]["mean"] == 1980
    assert "utilization" not in device, "a reading that the device refuses is absent"
    assert device["power_watts"]["min"] == 100 and device["power_watts"]["max"] > 100
    low, high = (device["power_watts"][end] * seen.result["seconds"] for end in ("min", "max"))
    assert 0 < device["energy_joules"] <= high and device["energy_joules"] > low * 0.5
    assert library.opened == 0


def test_samples_of_the_process_rise_with_what_it_takes() -> None:
    size = 64 * 2**20
    with sampled(interval=0.005) as seen, mmap.mmap(-1, size) as block:
        block[::4096] = b"\x01" * (size // 4096)
        time.sleep(0.03)
    if "process" not in seen.result:
        pytest.skip("this system does not say how much a process holds")
    resident = seen.result["process"]["rss_bytes"]
    assert resident["max"] - resident["min"] >= 0.9 * size
    assert set(seen.result) == {"samples", "seconds", "share_of_time_sampling", "process"}, "no GPU, no reading of one"


def test_sampling_ends_with_a_section_that_fails() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), sampled(interval=0.001) as seen:
        _ = 1 / 0
    assert threading.active_count() == before and seen.result["samples"] >= 2


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_must_be_positive(interval: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0"), sampled(interval=interval):
        pass


def test_marks_tell_each_step_apart() -> None:
    marks = Marks()
    marks.mark()
    for seconds in (0.03, 0.0):
        time.sleep(seconds)
        marks.mark()
    slow, fast = marks.seconds()
    assert slow >= 0.03 > fast


@pytest.mark.gpu
def test_real_gpu_is_sampled_and_marked() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    block = torch.ones(64 * 2**20, device="cuda:0")
    marks = Marks("cuda:0")
    with sampled(interval=0.02) as seen:
        marks.mark()
        for _ in range(20):
            block.mul_(1.0)
        marks.mark()
        time.sleep(0.1)
    assert marks.seconds()[0] > 0
    assert seen.result["cuda:0"]["device_bytes"]["max"] >= 64 * 2**20
    assert seen.result["cuda:0"]["power_watts"]["mean"] > 0


@pytest.mark.gpu
def test_real_gpu_reports_peaks_and_energy() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    with measure("cuda:0") as m:
        block = torch.ones(64 * 2**20, dtype=torch.uint8, device="cuda:0")
        del block
    assert m.result["cuda_peak_bytes"] - m.result["cuda_start_bytes"] >= 64 * 2**20
    assert m.result["energy_joules"] >= 0 and m.result["device_used_bytes"] > 0


def test_arms_run_in_turns_and_warmup_is_not_counted() -> None:
    order: list[str] = []
    seconds = interleaved({name: lambda name=name: order.append(name) for name in "ABC"}, repeats=2, warmup=1)
    assert order == list("ABC") * 3
    assert {name: len(times) for name, times in seconds.items()} == {"A": 2, "B": 2, "C": 2}


def test_interleaved_tells_a_slow_arm_from_a_fast_one() -> None:
    seconds = interleaved({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, repeats=3)
    assert ratio_summary(seconds, "fast", "slow")["max"] < 0.5


@pytest.mark.parametrize("bad", [{"repeats": 0}, {"repeats": 1, "warmup": -1}])
def test_interleaved_refuses_senseless_counts(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="repeats"):
        interleaved({"A": lambda: None}, **bad)


def test_ratios_are_formed_pair_by_pair() -> None:
    # The second turn was three times slower for both: no ratio may show it.
    drifting = {"ours": [1.0, 3.0, 1.0], "full": [2.0, 6.0, 4.0]}
    assert ratio_summary(drifting, "ours", "full") == {"median": 0.5, "min": 0.25, "max": 0.5}


def test_ratio_of_an_unknown_arm_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="available: full"):
        ratio_summary({"full": [1.0]}, "cokv", "full")
    with pytest.raises(ValueError, match="2 and 1 runs"):
        ratio_summary({"a": [1.0, 1.0], "b": [1.0]}, "a", "b")


def test_a_shared_storage_is_counted_once() -> None:
    torch = pytest.importorskip("torch")
    base = torch.zeros(100, dtype=torch.float32)
    assert storage_bytes([base, base[10:20], base.view(10, 10)]) == 400
    assert storage_bytes([base, base.clone()]) == 800
    assert storage_bytes([base[:1]]) == 400, "a view keeps its whole storage alive"
    assert storage_bytes([]) == 0


def test_descriptions_are_plain_and_name_no_host_and_no_path() -> None:
    import socket

    text = json.dumps({"machine": machine(), "versions": versions()})
    assert versions()["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert "/" not in json.dumps(versions())
    assert sys.prefix not in text
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4


def test_importing_the_probes_loads_no_torch() -> None:
    code = "import sys, cokv.probes as p; p.machine(); p.versions(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
