"""The pool that runs a command's work: this process, several processes of this machine, or a Ray cluster."""

from __future__ import annotations

from typing import Any

import torch

from cokv.cluster import InProcess, Pool
from cokv.cluster.processes import Processes
from suite.spec import ModelSpec

EMBEDDED = "embedded"
MAX_DEFAULT_WORKERS = 8


def pool_for(model: ModelSpec, workers: int | None, ray: str | None = None) -> Pool:
    """`workers` processes, or actors of the Ray cluster at this address; None: see `default_workers`.

    Workers are assigned to GPUs in turn; the first GPU also holds this process's model.
    """
    if ray is not None:
        from cokv.cluster.on_ray import OnRay

        return OnRay(ray, workers, model.device)
    count = default_workers(model) if workers is None else workers
    if count == 1:
        return InProcess(model.device)
    return Processes(count, model.device, threads=1 if workers is None else None)


def size(pool: Pool) -> int:
    """Number of parallel workers; 1 if only a cluster knows it."""
    return getattr(pool, "workers", None) or 1


def machine_of(pool: Pool, device: torch.device) -> dict[str, Any]:
    """What decides the last bits of a run's numbers: the device, by its name, and the CPU threads of each worker.

    Answers are equal, byte for byte, only where these are. None: only the cluster knows.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    here = torch.get_num_threads()
    return {"device": name, "threads": getattr(pool, "worker_threads", here)}


def in_words(machine: dict[str, Any]) -> str:
    """A machine as `machine_of` describes it."""
    threads = machine.get("threads")
    count = "the cluster's threads" if threads is None else f"{threads} thread{'s' * (threads != 1)}"
    return f"{machine.get('device')} with {count} per worker"


def default_workers(model: ModelSpec) -> int:
    """For the embedded model on a CPU, which is too small for several threads, one process per thread that torch would
    use. One otherwise, so that a real model's weights are in memory once.
    """
    small = model.name == EMBEDDED and model.device == "cpu"
    return min(torch.get_num_threads(), MAX_DEFAULT_WORKERS) if small else 1
