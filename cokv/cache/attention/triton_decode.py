"""Decoding by a Triton kernel of our own: split along the tokens, in one launch or two, with what the others lack.

float32, a cap on logits; it stores the step's new token by the way (`step`), and gives the attention weights to those
who evict by them. The grid follows from bounds on the host and lengths lie on the device, so that a step can
be captured in a CUDA graph and never waits. Wide queries over half-precision storage are multiplied in float32.

Runs on a CPU, slowly, where TRITON_INTERPRET=1 is set before triton is imported: for tests.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sysconfig
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cokv.types import CokvError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)
WIDEST = 256  # channels of a head
CHUNKS = 64, 1024  # fewest and most tokens of a program
PER_PROCESSOR = 4  # programs that a multiprocessor of the device should have, where there is enough to do
MOST_ROWS = 64  # rows of a product


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
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        return "Triton builds its launchers with a C compiler, and there is none (gcc, clang or $CC)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Triton builds its launchers with Python's headers, and there are none (python3-dev)"
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
    out, lse = step(queries, keys, values, starts, lengths, scaling, softcap=softcap, at_most=at_most)
    assert lse is not None
    return out, lse


def step(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    new_keys: torch.Tensor | None = None,
    new_values: torch.Tensor | None = None,
    places: torch.Tensor | None = None,
    grows: torch.Tensor | None = None,
    softcap: float | None = None,
    weights: torch.Tensor | None = None,
    needs_lse: bool = True,
    at_most: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `compiled.step`: stores one new token per segment, where there are new ones, and attends all that is stored.

    The log-sum-exp is always given. Never waits for the device.
    """
    kernels = _kernels()
    (segments, rows, key_width), value_width, device = queries.shape, values.shape[1], queries.device
    if queries.dtype not in DTYPES or keys.dtype not in DTYPES:
        raise CokvError(f"attention 'triton' computes in float32, float16 and bfloat16; got {queries.dtype}")
    wide, append = queries.dtype == torch.float32, new_keys is not None and new_values is not None
    queries = queries.contiguous() if wide else queries.to(keys.dtype).contiguous()
    bounds = [len(keys)] if at_most is None else [n + append for n in at_most]
    chunk = _chunk(sum(bounds), device)
    splits = max(math.ceil(max(bounds, default=0) / chunk), 1)
    whole = splits == 1 and weights is None
    block, stages = _blocking(wide, max(key_width, value_width))
    padded = _power(max(min(rows, MOST_ROWS), 16))
    row_blocks = math.ceil(rows / padded)
    out = torch.empty(segments, rows, value_width, dtype=queries.dtype, device=device)
    lse = torch.empty(segments, rows, dtype=torch.float32, device=device)
    parts = out if whole else torch.empty(segments, splits, rows, value_width, dtype=torch.float32, device=device)
    parts_lse = lse if whole else torch.empty(segments, splits, rows, dtype=torch.float32, device=device)
    # Programs of one segment must not read what another of them has counted up.
    counted = torch.empty_like(lengths) if append and row_blocks > 1 else lengths
    growing = lengths if grows is None else grows.view(torch.uint8)
    logits, columns = (lse, 0) if weights is None else (weights, weights.shape[2])
    appended: Any = {"APPEND": append, "GROWS": grows is not None}
    widths = {"KEY_WIDTH": _power(max(key_width, 16)), "VALUE_WIDTH": _power(max(value_width, 16))}
    with _on(device):
        kernels.split[segments, splits, row_blocks](
            queries,
            keys,
            values,
            keys if new_keys is None else new_keys.contiguous(),
            values if new_values is None else new_values.contiguous(),
            starts,
            lengths,
            lengths if places is None else places,
            growing,
            counted,
            parts,
            parts_lse,
            logits,
            scaling,
            1.0 if softcap is None else softcap,
            rows,
            columns,
            key_width,
            value_width,
            CHUNK=chunk,
            BLOCK=block,
            ROWS=padded,
            PLACES=places is not None,
            CAPPED=softcap is not None,
            WHOLE=whole,
            LOGITS=weights is not None,
            WIDE=wide,
            num_stages=stages,
            **appended,
            **widths,
        )
        if not whole:
            kernels.merge[segments, row_blocks](
                parts,
                parts_lse,
                lengths,
                growing,
                counted,
                out,
                lse,
                logits,
                splits,
                rows,
                columns,
                value_width,
                CHUNK=chunk,
                BLOCK=block,
                ROWS=padded,
                VALUE_WIDTH=widths["VALUE_WIDTH"],
                WEIGHTS=weights is not None,
                **appended,
            )
    if counted is not lengths:
        lengths.copy_(counted)
    return out, lse


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
