"""Where the parts of a model run, also one that is spread over several devices, or partly offloaded.

Offloaded weights lie on the device "meta" between forward passes; accelerate's hooks on their modules know the numbers,
and the device on which they are used.
"""

from __future__ import annotations

from typing import Any

import torch

from cokv.types import CokvError


def layer_devices(text: torch.nn.Module) -> dict[int, torch.device]:
    """Device on which each attention layer runs, by its `layer_idx`."""
    devices: dict[int, torch.device] = {}
    for module in text.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and index not in devices:
            device = runs_on(module)
            if device is not None:
                devices[index] = device
    return devices


def runs_on(module: torch.nn.Module) -> torch.device | None:
    """Where a module computes: where its first weight is, or will be brought to. None for a module without any."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter.device.type != "meta":
                return parameter.device
            hooks = [hook for hook in _hooks(part) if getattr(hook, "execution_device", None) is not None]
            if hooks:
                device = hooks[0].execution_device
                return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return None


def present(module: torch.nn.Module, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """The parameter `name` of a module, on the CPU where it is offloaded."""
    if parameter.device.type != "meta":
        return parameter.detach()
    for hook in _hooks(module):
        weights = getattr(hook, "weights_map", None)
        if weights is not None:
            return torch.as_tensor(weights[name]).detach()
    raise CokvError(
        f"{type(module).__name__}.{name} has no numbers (it is on the device meta); load the model's weights first"
    )


def _hooks(module: torch.nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return [hook, *getattr(hook, "hooks", ())]
