"""Host and device: what is sent without waiting, what is read back, and checks that are asked about together.

A number that lies on a GPU is there only when all work before it is done; asking for it in every layer leaves the GPU
idle in between. So each question here is either none (`sent`), or one for many numbers (`read`, `LaterChecks`).
"""

from __future__ import annotations

from typing import Any

import torch

from cokv.types import CokvError


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on the device, in its turn there; the host goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.numel():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def read(tensor: torch.Tensor) -> Any:
    """Its numbers as (nested) lists on the host, which waits for the device."""
    return tensor.tolist()


class LaterChecks:
    """What must not be so, looked at when somebody asks: one wait for any number of checks.

    who: begins each message.
    """

    def __init__(self, who: str = "") -> None:
        self.who = who
        self.pending: list[tuple[torch.Tensor, str]] = []

    def expect_not(self, wrong: torch.Tensor, message: str) -> None:
        """wrong: bool, one number. On a CPU, where nothing has to be waited for, it is looked at here."""
        if wrong.device.type != "cpu":
            self.pending.append((wrong, message))
        elif bool(wrong):
            raise CokvError(message)

    def ask(self) -> None:
        """Raises CokvError for the first check that failed since the last call."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        device = pending[0][0].device
        wrong = read(torch.stack([flag.to(device) for flag, _ in pending]))
        message = next((message for is_wrong, (_, message) in zip(wrong, pending, strict=True) if is_wrong), None)
        if message is not None:
            raise CokvError(f"{self.who}: {message}" if self.who else message)
