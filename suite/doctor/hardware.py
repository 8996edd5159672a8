"""The machine: CPUs and threads, memory, disk, GPUs, and what can be measured on them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from suite.doctor.check import Check, Finding, State

GB = 1e9
BUSY = 0.5  # CPUs; more work than this beside a run is worth a word
RUN_FOLDER = 200_000_000  # bytes; records, report and games of the default run take a tenth
CUDA_BUILD = "python -m pip install --force-reinstall torch, where the default build is one for CUDA (see pytorch.org)"


def checks() -> list[Check]:
    return [
        Check("machine", "cpus", cpus),
        Check("machine", "memory", memory),
        Check("machine", "disk for runs", lambda: disk(Path.cwd(), RUN_FOLDER, "run in another folder, or --runs")),
        Check("machine", "gpus", gpus),
        Check("machine", "gpu measurements", gpu_measurements),
    ]


def cpus() -> Finding:
    """How many this process may use, the threads that torch starts, and other work on them."""
    import torch

    from cokv.cluster.machine import usable_cpus

    count, threads = usable_cpus(), torch.get_num_threads()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    stated = os.environ.get("OMP_NUM_THREADS")
    facts: dict[str, Any] = {"usable": count, "threads": threads, "load": load, "OMP_NUM_THREADS": stated}
    of = f"OMP_NUM_THREADS={stated}" if stated else f"torch starts {threads} thread{'s' * (threads != 1)}"
    beside = "" if load is None else f", load {load:.1f}"
    detail = f"{count} usable, {of}{beside}"
    if load is not None and load > BUSY and threads > 1:
        slow = f"{detail}: as many threads as CPUs beside other work slow everything down several times"
        return Finding(State.WARNING, slow, "export OMP_NUM_THREADS=1", facts)
    return Finding(State.OK, detail, facts=facts)


def memory() -> Finding:
    from cokv.cluster.machine import available_memory

    free = available_memory()
    total = _total_memory()
    facts = {"available_bytes": free, "total_bytes": total}
    of = "" if total is None else f" of {total / GB:.1f} GB"
    return Finding(State.OK, f"{free / GB:.1f} GB available{of}", facts=facts)


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def disk(folder: Path, needed: int, elsewhere: str) -> Finding:
    """Free space where `needed` bytes will be written, and whether they may be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    facts = {"free_bytes": free, "needed_bytes": needed, "writable": os.access(existing, os.W_OK)}
    if not facts["writable"]:
        return Finding(State.PROBLEM, "this folder cannot be written", elsewhere, facts)
    if free < needed:
        short = f"{free / GB:.2f} GB free, {needed / GB:.2f} GB needed"
        return Finding(State.PROBLEM, short, f"free some space, or {elsewhere}", facts)
    return Finding(State.OK, f"{free / GB:.0f} GB free", facts=facts)


def gpus() -> Finding:
    """The CUDA devices that torch sees; of devices that only the driver sees, that torch does not."""
    import torch

    from cokv import probes

    if torch.cuda.is_available():
        devices: list[dict[str, Any]] = []
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append(
                {
                    "name": properties.name,
                    "memory_bytes": properties.total_memory,
                    "free_bytes": torch.cuda.mem_get_info(index)[0],
                    "capability": f"{properties.major}.{properties.minor}",
                }
            )
        lines = [
            f"cuda:{index}: {d['name']}, {d['free_bytes'] / GB:.0f} of {d['memory_bytes'] / GB:.0f} GB free, "
            f"capability {d['capability']}"
            for index, d in enumerate(devices)
        ]
        return Finding(State.OK, "; ".join(lines), facts={"devices": devices})
    driven = probes.machine().get("gpus", [])
    if driven:
        names = ", ".join(str(gpu.get("name")) for gpu in driven)
        seen = f"the driver sees {names}, torch {torch.__version__} does not"
        return Finding(State.WARNING, seen, CUDA_BUILD, {"devices": [], "driver": driven})
    return Finding(State.ABSENT, "no CUDA device; experiments run on the CPU", facts={"devices": []})


def gpu_measurements() -> Finding:
    """Which of NVML's and torch's readings a section on the first GPU has."""
    import torch

    from cokv import probes

    if not torch.cuda.is_available():
        return Finding(State.ABSENT, "nothing to measure without a CUDA device: no GPU memory, no energy")
    with probes.measure("cuda:0") as measured:
        pass
    got = measured.result
    readings = {
        "peak memory": "cuda_peak_bytes" in got,
        "device memory": "device_used_bytes" in got,
        "energy": "energy_joules" in got,
    }
    have = ", ".join(name for name, there in readings.items() if there)
    missing = ", ".join(name for name, there in readings.items() if not there)
    if missing:
        detail = f"{have or 'none'}; not {missing}, which needs NVML and a device that tells"
        return Finding(State.WARNING, detail, "python -m pip install 'nvidia-ml-py>=12'", {"readings": readings})
    return Finding(State.OK, have, facts={"readings": readings})
