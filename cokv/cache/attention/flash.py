"""The package flash-attn (2.7 or newer), called as torch's own copy of it is in varlen.py; it also caps logits.

The package's public functions do not take the lengths that are used of a stretch, without which no slack could lie
behind a segment (`flash_attn_with_kvcache` takes them, for caches of one width, or of pages of 256 tokens). The
function beneath them does: `flash_attn.flash_attn_interface._flash_attn_varlen_forward`, whose signature is asked.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from cokv.cache.attention.sequences import as_sequences, without_infinity
from cokv.cache.attention.varlen import flash_refusal


@cache
def _forward() -> Callable[..., Any] | str:
    """The package's function, or why there is none."""
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    try:
        from flash_attn import flash_attn_interface
    except (ImportError, OSError) as error:  # built for another torch or another CUDA
        return f"the package flash-attn cannot be imported ({' '.join(str(error).split())[:120]})"
    plain = getattr(flash_attn_interface, "_flash_attn_varlen_forward", None)
    if plain is None or not {"seqused_k", "softcap"} <= set(inspect.signature(plain).parameters):
        return "this flash-attn is older than 2.7"
    function: Callable[..., Any] = getattr(flash_attn_interface, "_wrapped_flash_attn_varlen_forward", plain)
    return function


@cache
def missing() -> str | None:
    """Why it is not available here, in words."""
    forward = _forward()
    if isinstance(forward, str):
        return forward
    return None if torch.cuda.is_available() else "no CUDA device"


def refusal(device: torch.device, dtype: torch.dtype, head_dim: int, softcap: float | None = None) -> str | None:
    """Why it cannot serve such keys, in words."""
    return flash_refusal(device, dtype, head_dim)


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
    """As `reference.attend`. Starts must ascend. Never waits for the device; `at_most` bounds the split heuristic."""
    forward = _forward()
    assert not isinstance(forward, str), forward
    arguments = as_sequences(queries, keys, values, starts, at_most)
    out, lse, *_ = forward(
        *arguments,
        0.0,  # dropout
        scaling,
        causal=False,  # a sequence has one query
        window_size_left=-1,
        window_size_right=-1,
        softcap=softcap or 0.0,
        alibi_slopes=None,
        return_softmax=False,
        block_table=None,
        seqused_k=lengths.to(torch.int32),
    )
    return out.to(queries.dtype), without_infinity(lse.T)
