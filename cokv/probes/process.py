"""This process: its resident size now, and its peak where Linux lets a process reset that."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def resident_bytes() -> int | None:
    """What this process holds of the machine's memory now; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def reset_rss_peak() -> bool:
    """Set the peak resident size (VmHWM) back to the present one; proc(5), /proc/pid/clear_refs, value 5."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def status_bytes(name: str) -> int | None:
    """A size of /proc/self/status, given there in KiB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
