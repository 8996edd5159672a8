"""Which attention backend answers for a compressed cache: by name, or the first that serves a device, dtype and width.

    reference   a loop over segments, slow and obvious
    buckets     gathered into power-of-two buckets; anywhere, any dtype
    compiled    C, built by the system's compiler; CPU
    sdpa        torch's flash attention for the CPU, called for each run of like segments; CPU without a compiler
    varlen      torch's own flash attention over sequences of any length; CUDA, half precision
    flash       the same from the package flash-attn
    flashinfer  FlashInfer's paged decode, a KV head being a request of one head; only where it is asked for
    triton      our own split-KV decode kernel; CUDA, any dtype, logits cap

Each is a module of this folder, imported when it is first wanted. All take the arguments of `reference.attend`. A cache
that names none uses `attend` of this module, which chooses by what it is called with, never by how a call went.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch

from cokv.cache.attention.backend import Attend
from cokv.types import CokvError

Step = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]

AUTO = "auto"
MODULES = {
    "reference": "reference",
    "buckets": "buckets",
    "compiled": "compiled",
    "sdpa": "sdpa",
    "varlen": "varlen",
    "flash": "flash",
    "flashinfer": "flashinfer",
    "triton": "triton_decode",
}
EVERYWHERE = ("reference", "buckets")  # serve any device, dtype and head_dim, and need nothing but torch
ORDER = {"cpu": ("compiled", "sdpa"), "cuda": ("varlen", "flash", "triton", "buckets")}  # elsewhere: buckets
ONE_WIDTH = ("varlen", "flash", "flashinfer")  # take no keys that have lost some channels
GIVE_WEIGHTS = ("compiled", "triton")
USES = {
    "reference": "checks, on any device",
    "buckets": "any device and dtype, with torch alone",
    "compiled": "CPU, float32, bfloat16 and float16, with a C compiler",
    "sdpa": "CPU, with torch alone; even budgets",
    "varlen": "CUDA, bfloat16 and float16, with torch alone",
    "flash": "CUDA, bfloat16 and float16, with flash-attn",
    "flashinfer": "CUDA, bfloat16 and float16, with FlashInfer, where it is asked for",
    "triton": "CUDA, float32 too, and logits caps",
}


@dataclass(frozen=True)
class NamedBackend:
    """A backend by name. `attend`: see `reference.attend`."""

    name: str
    attend: Attend
    module: Any

    def refusal(
        self, device: torch.device | str, dtype: torch.dtype, head_dim: int, softcap: float | None = None
    ) -> str | None:
        """Why it cannot serve such keys, in words; None where it can."""
        if self.name in EVERYWHERE:
            return None
        refusal: str | None = self.module.refusal(torch.device(device), dtype, head_dim, softcap)
        return refusal


@dataclass(frozen=True)
class Described:
    """What `cokv doctor` says of a backend. missing: why this installation or machine has none, else None."""

    name: str
    use: str
    missing: str | None

    @property
    def available(self) -> bool:
        return self.missing is None


@cache
def _module(name: str) -> Any:
    return import_module(f"{__package__}.{MODULES[name]}")


def missing(name: str) -> str | None:
    """Why a backend is not available here; None where it is."""
    if name in EVERYWHERE:
        return None
    reason: str | None = _module(name).missing()
    return reason


def get_backend(name: str) -> NamedBackend:
    """The backend of this name. Raises CokvError for an unknown one, and one that is not available here."""
    if name not in MODULES:
        raise CokvError(f"attention is {name!r}; expected one of {', '.join([AUTO, *MODULES])}")
    reason = missing(name)
    if reason is not None:
        available = [other for other in MODULES if missing(other) is None]
        raise CokvError(f"attention {name!r} is not available: {reason}; available: {', '.join([AUTO, *available])}")
    module = _module(name)
    return NamedBackend(name, module.attend, module)


def describe_backends() -> list[Described]:
    """All of them, available or not."""
    return [Described(name, USES[name], missing(name)) for name in MODULES]


@cache
def choose(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    softcap: float | None = None,
    weights: bool = False,
    one_width: bool = True,
) -> str:
    """The name of the backend that answers, where none is named, for keys of this kind.

    weights: for steps whose attention weights are wanted, by rules that evict by them: those that give them come first.
    one_width: whether keys are as wide as values.
    """
    order = ORDER.get(device.type, ())
    for name in sorted(order, key=lambda name: weights and name not in GIVE_WEIGHTS):
        if missing(name) is not None or (name in ONE_WIDTH and not one_width):
            continue
        if get_backend(name).refusal(device, dtype, head_dim, softcap) is None:
            return name
    return "buckets"


def check_backend(
    name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int, softcap: float | None = None
) -> None:
    """Raises CokvError where the backend a user has named cannot serve such keys. AUTO always can."""
    if name == AUTO:
        return
    reason = get_backend(name).refusal(device, dtype, head_dim, softcap)
    if reason is not None:
        instead = choose(torch.device(device), dtype, head_dim, softcap)
        raise CokvError(f"attention {name!r} {reason}; use {AUTO!r}, which is {instead!r} here")


def attend_of(name: str) -> Attend:
    """The function to give a cache: of one backend, or of this module."""
    return attend if name == AUTO else get_backend(name).attend


def name_of(function: Attend) -> str:
    """The name of a backend's `attend`; of a function of the user's, its own."""
    if function is attend:
        return AUTO
    module = function.__module__.rpartition(".")[2]
    return next((name for name, file in MODULES.items() if file == module), function.__qualname__)


@cache
def step_of(
    function: Attend,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    softcap: float | None,
    weights: bool = False,
) -> Step | None:
    """What stores a step's tokens and attends them in one call, as `compiled.step`; None where the backend has none."""
    name = name_of(function)
    if name == AUTO:
        name = choose(device, dtype, head_dim, softcap, weights)
    if name not in MODULES or get_backend(name).refusal(device, dtype, head_dim, softcap) is not None:
        return None
    step: Step | None = getattr(_module(name), "step", None)
    return step


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    at_most: Sequence[int] | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference.attend`, by the backend that `choose` names for these keys."""
    backend = get_backend(
        choose(keys.device, keys.dtype, values.shape[1], softcap, False, keys.shape[1] == values.shape[1])
    )
    return backend.attend(queries, keys, values, starts, lengths, scaling, at_most, softcap)
