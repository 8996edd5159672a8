"""The pool that runs a command's work: this process, several processes of this machine, or a Ray cluster."""

from __future__ import annotations

from typing import Any

import torch

from cokv.cluster import InProcess, Pool
from cokv.cluster.machine import available_memory, usable_cpus
from cokv.cluster.processes import Processes
from cokv.model.weights import weights_bytes
from suite.spec import ModelSpec

MAX_DEFAULT_WORKERS = 8
ALLOWANCE = 512 << 20  # bytes per process: the interpreter and torch, a prompt's cache, the rows of a batch


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
    """On a CPU as many processes, of one thread each, as it has CPUs (at most MAX_DEFAULT_WORKERS) and memory.

    Each process counts with the model's weights in the run's dtype and ALLOWANCE for everything else; all of them, and
    this process's weights, must fit in half of the memory that is available, as another run may start. (Weights run
    in the dtype of their file take less: processes share the file's pages.) One process on a GPU, and where the
    size of the weights is not known before loading.
    """
    if model.device != "cpu":
        return 1
    weights = weights_bytes(model.name, model.revision, model.dtype)
    if weights is None:
        return 1
    fitting = (available_memory() // 2 - weights) // (weights + ALLOWANCE)
    return max(min(usable_cpus(), MAX_DEFAULT_WORKERS, fitting), 1)
