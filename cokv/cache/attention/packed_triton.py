"""Attention over packed tokens on a GPU: a Triton kernel reads codes as they are, split along the groups.

Products are float32, whatever low and step are stored in. The grid follows from a bound that is known on the host, so
it never waits for the device. Runs on a CPU, slowly, where TRITON_INTERPRET=1 is set before triton is imported: for
tests. It has not been timed on a GPU.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch

from cokv.cache.attention.packed import DTYPES, Groups
from cokv.cache.attention.triton_decode import interpreted

WIDEST, LONGEST = 256, 64  # channels of a head, tokens of a group
MOST_ROWS = 64  # queries of a program
EACH = 8  # groups of a program


def why_not(device: torch.device, dtype: torch.dtype, head_dim: int, group: int) -> str | None:
    """Why it cannot read what is stored so; None where it can."""
    if device.type != "cuda" and not interpreted():
        return f"storage on {device}; expected a CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if dtype not in DTYPES:
        return f"storage in {dtype}; expected float32, bfloat16 or float16"
    if head_dim > WIDEST or group > LONGEST:
        return f"{head_dim} channels in groups of {group} tokens; expected at most {WIDEST} and {LONGEST}"
    return None


def attend(
    queries: torch.Tensor,
    pool: Groups,
    most: int,
    group: int,
    channels: int,
    scaling: float,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each segment's queries over its groups in one pool; a segment of none gives zeros and -inf.

    queries float32 [segments, rows, head_dim]; most: groups that a segment has at most, known on the host; group:
    tokens of a group; channels: of a value's group. Output as queries, log-sum-exp float32 [segments, rows].
    """
    from cokv.cache.attention import packed_kernels

    (segments, rows, dim), splits = queries.shape, max(math.ceil(most / EACH), 1)
    parts = queries.new_empty(segments, splits, rows, dim)
    lse = queries.new_empty(segments, splits, rows)
    padded = max(_power(min(rows, MOST_ROWS)), 16)
    widths: Any = {"TOKENS": max(_power(group), 16), "DIM": max(_power(dim), 16), "ROWS": padded}
    packed_kernels.attend_groups[segments, splits, math.ceil(rows / padded)](
        queries.contiguous(),
        pool.counts,
        pool.counts.cumsum(0) - pool.counts,
        pool.places,
        *pool.keys,
        *pool.values,
        parts,
        lse,
        scaling,
        softcap or 1.0,
        rows,
        dim,
        EACH,
        BITS=pool.bits,
        GROUP=group,
        CHANNELS=channels,
        PARTS=dim // channels,
        KEY_BYTES=pool.keys[0].shape[-1],
        VALUE_BYTES=pool.values[0].shape[-1],
        CAPPED=softcap is not None,
        **widths,
    )
    if splits == 1:
        return parts[:, 0], lse[:, 0]
    total = lse.logsumexp(1)
    shares = (lse - total.clamp(min=torch.finfo(torch.float32).min)[:, None]).exp()
    return (parts * shares[..., None]).sum(1), total


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
