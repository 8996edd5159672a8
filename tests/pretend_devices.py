"""Devices that this machine does not have: numbers in CPU memory, under the name and the rules of another device.

A tensor says that it lies on "xpu:0" or "xpu:1"; what mixes two devices is refused as PyTorch would, so that code for a
model spread over devices can be tried where there is none. Real numbers, so that control flow by numbers works too.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
MIXING = {"__getitem__", "__setitem__", "copy_", "index_put_"}  # an index, or numbers, may come from CPU memory


class Placed(torch.Tensor):
    """Numbers that say they lie on `device`."""

    where: torch.device = CPU

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.where

    def __repr__(self, **_: Any) -> str:
        return f"{self.as_subclass(torch.Tensor)!r} on {self.where}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return run(func, args, kwargs or {})


def placed(numbers: Any, where: torch.device | None) -> Any:
    if not isinstance(numbers, torch.Tensor) or where is None or where == CPU:
        return numbers
    there = numbers.as_subclass(Placed)
    there.where = where
    return there


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    operands = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    where = next((each.where for each in operands if isinstance(each, Placed)), None)
    name = getattr(func, "__name__", "")
    if name in ("to", "cpu") and operands and operands[0] is args[0]:
        return moved(args[0], name, args[1:], dict(kwargs))
    devices = {each.device for each in operands if each.ndim or each.device != CPU} - {torch.device("meta")}
    if len(devices) > 1 and not (name in MIXING and args[0].device in devices and devices - {CPU} == {where}):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got {sorted(map(str, devices))}")
    if name == "copy_" or name == "__setitem__":
        where = args[0].device
    if kwargs.get("device") is not None:
        where = torch.device(kwargs["device"])
        kwargs = {**kwargs, "device": where if where.type == "meta" else CPU}
    args, kwargs = tree_map(lambda e: e.as_subclass(torch.Tensor) if isinstance(e, Placed) else e, (args, kwargs))
    result = func(*args, **kwargs)
    return tree_map(lambda each: placed(each, where), result)


def moved(tensor: torch.Tensor, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`tensor.to(...)`, which takes a device first, or by name, or none."""
    wanted: Any = CPU if name == "cpu" else kwargs.pop("device", None)
    if args and isinstance(args[0], (str, torch.device, int)) and not isinstance(args[0], bool):
        wanted, args = args[0], args[1:]
    if args and isinstance(args[0], torch.Tensor):
        wanted, args = args[0].device, (args[0].dtype, *args[1:])
    where = tensor.device if wanted is None else torch.device(wanted)
    numbers = tensor.as_subclass(torch.Tensor) if isinstance(tensor, Placed) else tensor
    kwargs.pop("non_blocking", None)
    result = numbers.to(*args, **kwargs) if args or kwargs else numbers
    if where == tensor.device and result is numbers:
        return tensor
    return placed(result.clone() if result is numbers else result, where)


class PretendDevices(TorchFunctionMode):
    """Inside, tensors may be made on devices that are not there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return run(func, args, kwargs or {})


def spread(model: Any, devices: list[str]) -> Any:
    """Layers in turn on these devices, all else on the first; inputs follow, as with `device_map="auto"`."""
    text, first = model.model, torch.device(devices[0])
    where: dict[int, torch.device] = {}
    for place, layer in enumerate(text.layers):
        device = torch.device(devices[place * len(devices) // len(text.layers)])
        where |= {id(module): device for module in layer.modules()}
        _inputs_follow(layer, device)
    for module in (text.norm, model.lm_head, text.embed_tokens, text.rotary_emb):
        _inputs_follow(module, first)
    for module in model.modules():
        device = where.get(id(module), first)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(placed(parameter.detach(), device), requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else placed(buffer, device)
    return model


def _inputs_follow(module: torch.nn.Module, device: torch.device) -> None:
    def send(_: Any, args: Any, kwargs: Any) -> Any:
        return send_to_device(args, device), send_to_device(kwargs, device, skip_keys="past_key_values")

    module.register_forward_pre_hook(send, with_kwargs=True)
