"""Decoding by a Triton kernel of our own: split along the tokens, in one launch or two, with what the others lack.

float32, a cap on logits, sinks; it can store the step's new token by the way (`step`), and give the attention weights
to those who evict by them. The grid follows from bounds on the host and lengths lie on the device, so that a step can
be captured in a CUDA graph and never waits. Wide queries over half-precision storage are multiplied in float32.

Runs on a CPU, slowly, where TRITON_INTERPRET=1 is set before triton is imported: for tests.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from cokv.types import CokvError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)
WIDEST = 256  # channels of a head
CHUNKS = 64, 1024  # fewest and most tokens of a program
PER_PROCESSOR = 4  # programs that a multiprocessor of the device should have, where there is enough to do
MOST_ROWS = 64  # rows of a product


@dataclass(frozen=True)
class Step:
    """What a step of one new token per segment gives. weights: float32 [segments, rows, columns] where asked for."""

    out: torch.Tensor  # [segments, rows, head_dim]
    lse: torch.Tensor  # float32 [segments, rows], sinks included
    lengths: torch.Tensor  # int64 [segments]
    weights: torch.Tensor | None


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def missing() -> str | None:
    """Why it is not available here, in words."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if interpreted():
        return None
    if not torch.cuda.is_available():
        return "no CUDA device"
    return None


def refusal(device: torch.device, dtype: torch.dtype, head_dim: int, softcap: float | None = None) -> str | None:
    """Why it cannot serve such keys, in words."""
    if device.type != "cuda" and not interpreted():
        return f"runs on CUDA, not on {device.type!r}"
    if dtype not in DTYPES:
        return f"computes in float32, float16 and bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if head_dim > WIDEST:
        return f"takes heads of up to {WIDEST} channels, not {head_dim}"
    if device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < CAPABILITY:
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
    """As `reference.attend`. Never waits for the device."""
    got = _run(queries, keys, values, starts, lengths, scaling, at_most, softcap)
    return got.out, got.lse


def step(
    queries: torch.Tensor,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    at_most: Sequence[int] | None = None,
    softcap: float | None = None,
    places: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    columns: int | None = None,
) -> Step:
    """Stores one new token per segment, new_keys [segments, channels] and new_values, and attends it with the rest.

    It goes behind the segment's last token, or to `places` int64 [segments], which is at most the length. `lengths`
    and `at_most` are those before it, and stay as they are. sinks: [num_heads]. columns: that many weights per row
    are given, zero beyond a segment's tokens; at least as many as the longest segment has with its new token.
    """
    return _run(
        queries,
        keys,
        values,
        starts,
        lengths,
        scaling,
        at_most,
        softcap,
        new=(new_keys, new_values),
        places=places,
        sinks=sinks,
        columns=columns,
    )


def _run(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    at_most: Sequence[int] | None,
    softcap: float | None,
    new: tuple[torch.Tensor, torch.Tensor] | None = None,
    places: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    columns: int | None = None,
) -> Step:
    kernels = _kernels()
    (segments, rows, key_width), value_width, device = queries.shape, values.shape[1], queries.device
    if queries.dtype not in DTYPES or keys.dtype not in DTYPES:
        raise CokvError(f"attention 'triton' computes in float32, float16 and bfloat16; got {queries.dtype}")
    wide = queries.dtype == torch.float32
    queries = queries.contiguous() if wide else queries.to(keys.dtype).contiguous()
    bounds = [len(keys)] if at_most is None else [n + (new is not None) for n in at_most]
    longest = max(bounds, default=0)
    chunk = _chunk(sum(bounds), device)
    splits = max(math.ceil(longest / chunk), 1)
    whole = splits == 1 and sinks is None and columns is None
    block, stages = _blocking(wide, max(key_width, value_width))
    padded = _power(max(min(rows, MOST_ROWS), 16))
    row_blocks = math.ceil(rows / padded)
    out = torch.empty(segments, rows, value_width, dtype=queries.dtype, device=device)
    lse = torch.empty(segments, rows, dtype=torch.float32, device=device)
    parts = out if whole else torch.empty(segments, splits, rows, value_width, dtype=torch.float32, device=device)
    parts_lse = lse if whole else torch.empty(segments, splits, rows, dtype=torch.float32, device=device)
    new_lengths = lengths if new is None else torch.empty_like(lengths)
    weights = None if columns is None else torch.empty(segments, rows, columns, dtype=torch.float32, device=device)
    widths = {"KEY_WIDTH": _power(max(key_width, 16)), "VALUE_WIDTH": _power(max(value_width, 16))}
    with _on(device):
        kernels.split[segments, splits, row_blocks](
            queries,
            keys,
            values,
            *((keys, values) if new is None else (part.contiguous() for part in new)),
            starts,
            lengths,
            lengths if places is None else places,
            new_lengths,
            parts,
            parts_lse,
            lse if weights is None else weights,
            scaling,
            1.0 if softcap is None else softcap,
            rows,
            columns or 0,
            key_width,
            value_width,
            CHUNK=chunk,
            BLOCK=block,
            ROWS=padded,
            APPEND=new is not None,
            PLACES=places is not None,
            CAPPED=softcap is not None,
            WHOLE=whole,
            LOGITS=weights is not None,
            WIDE=wide,
            num_stages=stages,
            **widths,
        )
        if not whole:
            kernels.merge[segments, row_blocks](
                parts,
                parts_lse,
                new_lengths,
                lse if sinks is None else sinks,
                out,
                lse,
                lse if weights is None else weights,
                splits,
                rows,
                columns or 0,
                value_width,
                1 if sinks is None else len(sinks) // rows,
                CHUNK=chunk,
                BLOCK=block,
                ROWS=padded,
                VALUE_WIDTH=widths["VALUE_WIDTH"],
                SINKS=sinks is not None,
                WEIGHTS=weights is not None,
            )
    return Step(out, lse, new_lengths, weights)


def _kernels() -> Any:
    from cokv.cache.attention import triton_kernels

    return triton_kernels


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _chunk(tokens: int, device: torch.device) -> int:
    """Tokens of a program: a power of two, so that all tokens together keep the device busy."""
    programs = _processors(device) * PER_PROCESSOR
    fewest, most = CHUNKS
    return min(max(_power(max(tokens // programs, 1)), fewest), most)


def _blocking(wide: bool, width: int) -> tuple[int, int]:
    """Tokens in a product, and how many of these are on their way at once: what the shared memory of any GPU holds."""
    if not wide:
        return 64, 3
    return (32, 3) if width <= 64 else (16, 3) if width <= 128 else (16, 2)


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _on(device: torch.device) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
