"""What a result was made on and by: the machine, without host names or paths, and the versions that matter."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from cokv import __version__
from cokv.probes.nvml import gpus

# Everything whose version can change an answer or a time.
DISTRIBUTIONS = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "rouge", "jieba", "flash-attn"),
    *("flashinfer-python", "triton", "kvpress"),
)


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
    return out | _present("gpus", gpus() or None)


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


def _processor_name() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or None
