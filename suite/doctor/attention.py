"""Attention: which backends this machine has for compressed caches, which one answers where none is named, and why the
others are not here; and what transformers has for prompts.
"""

from __future__ import annotations

from functools import partial

from suite.doctor.check import Check, Finding, State

DTYPES = ("float32", "bfloat16")
HEAD_DIM = 128  # of most models of some size
# As in cokv.cache.attention.choose, which needs torch: without it each is a line, too.
BACKENDS = ("reference", "buckets", "compiled", "sdpa", "varlen", "flash", "flashinfer", "triton")
ON_CUDA = {  # what adds a backend to a machine with a GPU; nothing adds it to one without
    "varlen": "python -m pip install --upgrade 'torch>=2.10'",
    "flash": "python -m pip install 'cokv[flash]'",
    "flashinfer": "python -m pip install 'cokv[flashinfer]'",
    "triton": "python -m pip install triton",
}
COMPILER = "install a C compiler, gcc or clang"


def checks() -> list[Check]:
    each = [Check("attention", name, partial(backend, name)) for name in BACKENDS]
    return [Check("attention", "chosen", chosen), *each, Check("attention", "prompts", prompts)]


def devices() -> list[str]:
    import torch

    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def chosen() -> Finding:
    """The backend of each kind of device here and dtype, at a head_dim of 128 and without a logits cap."""
    import torch

    from cokv.cache.attention.choose import choose

    names = {
        device: {dtype: choose(torch.device(device), getattr(torch, dtype), HEAD_DIM) for dtype in DTYPES}
        for device in devices()
    }
    detail = "; ".join(
        f"{device}: " + ", ".join(f"{dtype} by {name}" for dtype, name in of.items()) for device, of in names.items()
    )
    return Finding(State.OK, detail, facts={"chosen": names, "head_dim": HEAD_DIM})


def backend(name: str) -> Finding:
    """Whether it is here, which of this machine's devices and dtypes it serves, and why not the others."""
    import torch

    from cokv.cache.attention.choose import describe_backends, get_backend

    described = next(each for each in describe_backends() if each.name == name)
    facts: dict[str, object] = {"use": described.use, "available": described.available}
    if described.missing is not None:
        remedy = COMPILER if name == "compiled" else ON_CUDA.get(name, "") if "cuda" in devices() else ""
        return Finding(State.ABSENT, f"{described.missing} (for {described.use})", remedy, facts)
    refusals = {
        f"{device} {dtype}": get_backend(name).refusal(torch.device(device), getattr(torch, dtype), HEAD_DIM)
        for device in devices()
        for dtype in DTYPES
    }
    serves = [what for what, refusal in refusals.items() if refusal is None]
    facts |= {"serves": serves, "refuses": {what: why for what, why in refusals.items() if why is not None}}
    refused = "".join(f"; not {what}: it {why}" for what, why in refusals.items() if why is not None)
    return Finding(State.OK, f"serves {', '.join(serves) or 'nothing here'}{refused}", facts=facts)


def prompts() -> Finding:
    import torch

    from suite.doctor.software import has_extra

    flash = torch.cuda.is_available() and has_extra("flash")
    names = ["sdpa", "eager", *(["flash_attention_2"] if flash else [])]
    return Finding(State.OK, f"{', '.join(names)} of transformers", facts={"prompts": names})
