"""torch.cuda, imported when it is first asked for: the probes are used where there is no torch, too."""

from __future__ import annotations

from typing import Any


def cuda() -> Any:
    import torch

    return torch.cuda


def reset_cuda_peak(device: str) -> bool:
    """Whether there are peaks to read; the call itself raises on a CPU build of torch, so that is asked first."""
    if not device.startswith("cuda") or not cuda().is_available():
        return False
    cuda().reset_peak_memory_stats(device)
    return True
