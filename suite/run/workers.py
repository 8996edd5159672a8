"""Who does the work of a command: this process, several processes of this machine, or a Ray cluster."""

from __future__ import annotations

import torch

from cokv.cluster import InProcess, Pool
from cokv.cluster.processes import Processes
from suite.spec import ModelSpec

EMBEDDED = "embedded"
MOST = 8  # processes that are started unasked


def pool_for(model: ModelSpec, workers: int | None, ray: str | None = None) -> Pool:
    """`workers` processes, or actors of the Ray cluster at this address; left out: see `unasked`.

    On GPUs, workers take them in turn, and the first also holds the model of the process that asked.
    """
    if ray is not None:
        from cokv.cluster.on_ray import OnRay

        return OnRay(ray, workers, model.device)
    count = default_workers(model) if workers is None else workers
    if count == 1:
        return InProcess(model.device)
    return Processes(count, model.device, threads=1 if workers is None else None)


def size(pool: Pool) -> int:
    """How many work at the same time; 1 where only a cluster knows."""
    return getattr(pool, "workers", None) or 1


def default_workers(model: ModelSpec) -> int:
    """One process per thread that torch would use, where the embedded model runs on a CPU: it is too small for several
    threads. One otherwise: a real model's weights are then held once.
    """
    small = model.name == EMBEDDED and model.device == "cpu"
    return min(torch.get_num_threads(), MOST) if small else 1
