"""torch's own flash attention over sequences of any length: a segment is a sequence of one token, its rows are heads.

    query [segments, rows, head_dim], key and value [slots, 1, head_dim], cu_seq_k the starts, seqused_k the lengths

Slack behind a segment is allowed: `seqused_k` says how much of a stretch is read, so that nothing is copied. All rows
of a segment share one KV head, which the kernel turns into rows of one product and splits along the tokens.
`torch.nn.attention.varlen.varlen_attn` takes `seqused_k` from torch 2.12 on, as its signature says; before that the
operator beneath it does (`aten::_flash_attention_forward`), and is called directly.

No logits cap, no float32. Queries that are wider than the keys are rounded to their dtype; the output then is, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from cokv.cache.attention.sequences import as_sequences, without_infinity
from cokv.types import CokvError

DTYPES = (torch.float16, torch.bfloat16)
WIDEST = 256  # channels of a head
CAPABILITY = (8, 0)


@cache
def parameters() -> frozenset[str]:
    """What this torch's `varlen_attn` takes; empty where there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


@cache
def missing() -> str | None:
    """Why it is not available here, in words."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.version.hip is not None:
        return "torch is built for ROCm"
    if "seqused_k" not in parameters() and not _operator_takes_lengths():
        return f"torch {torch.__version__} has no varlen_attn with seqused_k"
    return None


def _operator_takes_lengths() -> bool:
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    return operator is not None and "seqused_k" in {a.name for a in operator.default._schema.arguments}


def refusal(device: torch.device, dtype: torch.dtype, head_dim: int, softcap: float | None = None) -> str | None:
    """Why it cannot serve such keys, in words."""
    if softcap is not None:
        return "has no logits cap"
    return flash_refusal(device, dtype, head_dim)


def flash_refusal(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """What all flash attention of this generation has in common."""
    if device.type != "cuda":
        return f"runs on CUDA, not on {device.type!r}"
    if dtype not in DTYPES:
        return f"computes in float16 and bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if head_dim > WIDEST or head_dim % 8:
        return f"takes heads of up to {WIDEST} channels, a multiple of 8, not {head_dim}"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < CAPABILITY:
        return "needs a GPU of compute capability 8.0 (Ampere) or newer"
    return None


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
    if softcap is not None:
        raise CokvError("attention 'varlen' has no logits cap; use 'triton' or 'buckets'")
    arguments = as_sequences(queries, keys, values, starts, at_most)
    used = lengths.to(torch.int32)
    out, lse = _public(arguments, used, scaling) if "seqused_k" in parameters() else _operator(arguments, used, scaling)
    return out.to(queries.dtype), without_infinity(lse.T)


def _public(arguments: tuple[Any, ...], used: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    more: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in parameters() else {}
    out, lse = varlen_attn(*arguments, return_aux=AuxRequest(lse=True), scale=scaling, seqused_k=used, **more)
    return out, lse


def _operator(arguments: tuple[Any, ...], used: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Dropout 0, not causal (a sequence has one query), no debug mask."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(*arguments, 0.0, False, False, scale=scaling, seqused_k=used)
    return out, lse
