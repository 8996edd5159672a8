"""How many CPUs and how much memory this process may use: the machine's, less what a container or a user withholds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # bytes; what version 1 of control groups writes for no limit is larger


def usable_cpus() -> int:
    """CPUs that this process may use at once. OMP_NUM_THREADS, where it is set, is a user's word on that."""
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _numbers("cpu.max") or [*_numbers("cpu/cpu.cfs_quota_us"), *_numbers("cpu/cpu.cfs_period_us")]
    if len(quota) == 2 and quota[0] > 0:
        count = min(count, max(quota[0] // quota[1], 1))
    return count


def available_memory() -> int:
    """Bytes that can still be taken without swapping: the system's, or less where a control group has a limit."""
    return min([_system(), *_of_group()])


def _system() -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_group() -> Iterator[int]:
    for limit, used, pages in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        limits, uses = _numbers(limit), _numbers(used)
        if limits and uses and limits[0] < UNLIMITED:
            yield max(limits[0] - uses[0] + _file_pages(pages), 0)


def _file_pages(name: str) -> int:
    """Bytes of cached files, which the kernel gives back when asked."""
    with suppress(OSError, ValueError):
        for line in (CGROUP / name).read_text().splitlines():
            if line.startswith(("inactive_file ", "total_inactive_file ")):
                return int(line.split()[1])
    return 0


def _numbers(name: str) -> list[int]:
    """The numbers in a file of the control group; none where there is no file, or no limit ("max")."""
    try:
        return [int(part) for part in (CGROUP / name).read_text().split()]
    except (OSError, ValueError):
        return []
