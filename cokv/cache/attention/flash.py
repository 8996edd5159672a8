"""Not written yet."""

from __future__ import annotations

import torch


def missing() -> str | None:
    return "this version of cokv does not have it"


def refusal(device: torch.device, dtype: torch.dtype, head_dim: int, softcap: float | None = None) -> str | None:
    return missing()


def attend(*arguments: object, **more: object) -> tuple[torch.Tensor, torch.Tensor]:
    raise NotImplementedError
