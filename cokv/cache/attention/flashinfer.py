"""FlashInfer's paged decode: a segment is a request of one KV head, and a slot is a page.

    BatchDecodeWithPagedKVCacheWrapper: indices are slots, indptr counts them, kv_layout "NHD", page_size 1

Its plan is made on the host, from exact lengths: every call waits for the device once, and cannot be captured in a CUDA
graph. So it is only taken where it is asked for. The wrapper's log-sum-exp has base 2.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from cokv.cache.attention.varlen import flash_refusal
from cokv.types import CokvError

HEAD_DIMS = (64, 128, 256)
WORKSPACE = 128 << 20  # bytes that FlashInfer advises
WANTED = {"logits_soft_cap", "sm_scale", "q_data_type", "kv_data_type"}  # of `plan`


@cache
def _wrapper_class() -> Any:
    """FlashInfer's class, or why there is none."""
    if importlib.util.find_spec("flashinfer") is None:
        return "the package flashinfer-python is not installed"
    try:
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper
    except (ImportError, OSError, RuntimeError) as error:
        return f"the package flashinfer-python cannot be imported ({' '.join(str(error).split())[:120]})"
    plan = inspect.signature(BatchDecodeWithPagedKVCacheWrapper.plan).parameters
    if not plan.keys() >= WANTED and inspect.Parameter.VAR_KEYWORD not in {p.kind for p in plan.values()}:
        return "this FlashInfer's plan does not take a scale and a logits cap"
    return BatchDecodeWithPagedKVCacheWrapper


@cache
def missing() -> str | None:
    """Why it is not available here, in words."""
    wrapper = _wrapper_class()
    if isinstance(wrapper, str):
        return wrapper
    return None if torch.cuda.is_available() else "no CUDA device"


def refusal(device: torch.device, dtype: torch.dtype, head_dim: int, softcap: float | None = None) -> str | None:
    """Why it cannot serve such keys, in words."""
    if head_dim not in HEAD_DIMS:
        return f"takes heads of {', '.join(map(str, HEAD_DIMS))} channels, not {head_dim}"
    return flash_refusal(device, dtype, head_dim)


@cache
def _wrapper(device: torch.device) -> Any:
    """One per device: a plan is followed by its run at once."""
    with torch.inference_mode(False):
        workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=device)
    return _wrapper_class()(workspace, "NHD", use_tensor_cores=True)  # any number of query heads per KV head


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
    """As `reference.attend`. Waits for the device once; `at_most` is of no use to it."""
    if keys.shape[1] != values.shape[1]:
        raise CokvError(
            f"attention 'flashinfer' takes keys as wide as values, got {keys.shape[1]} and {values.shape[1]} channels; "
            "use attention='auto', 'triton' or 'buckets'"
        )
    device, rows = keys.device, queries.shape[1]
    counts = lengths.to("cpu", torch.int32)
    indptr = torch.zeros(len(counts) + 1, dtype=torch.int32)
    indptr[1:] = counts.cumsum(0)
    total = int(indptr[-1])
    if total == 0:
        lse = torch.full(queries.shape[:2], -torch.inf, dtype=torch.float32, device=device)
        return queries.new_zeros(*queries.shape[:2], values.shape[1]), lse
    first = torch.repeat_interleave(starts - (lengths.cumsum(0) - lengths), lengths, output_size=total)
    slots = (first + torch.arange(total, device=device)).to(torch.int32)
    wrapper = _wrapper(device)
    wrapper.plan(
        indptr,
        slots,
        torch.ones_like(counts),  # tokens in the last page; of no pages, that makes a length of 0
        rows,
        1,
        keys.shape[1],
        1,
        q_data_type=keys.dtype,
        kv_data_type=keys.dtype,
        sm_scale=scaling,
        logits_soft_cap=softcap,
    )
    pages = keys[:, None, None], values[:, None, None]  # [pages, page_size, num_kv_heads, head_dim]
    out, lse = wrapper.run(queries.to(keys.dtype).contiguous(), pages, return_lse=True)
    empty = lengths == 0
    out = out.to(queries.dtype).masked_fill(empty[:, None, None], 0)
    return out, (lse * math.log(2)).masked_fill(empty[:, None], -torch.inf)
