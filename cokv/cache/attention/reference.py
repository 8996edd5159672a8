"""The obvious way: one softmax attention per segment, in a Python loop. Every other backend is tested against it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def capped(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Logits of any shape, already scaled, within -softcap..softcap; unchanged without a cap."""
    return logits if softcap is None else (logits / softcap).tanh() * softcap


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
    """Attention of each segment's queries over its own stretch of flat storage; no mask inside a segment.

    queries [segments, rows, channels]; keys [slots, channels]; values [slots, head_dim]; starts, lengths int64
    [segments]. Returns the output [segments, rows, head_dim] in the queries' dtype and the log-sum-exp [segments, rows]
    in float32 (float64 for float64). A segment of length zero gives zeros and a log-sum-exp of -inf. Logits and softmax
    stay in float32 for half precision too, as in SDPA: rounded logits would cost a few times the error. Queries may be
    wider than what is stored: the output then is, too, for those who merge it with more and round once. `at_most`:
    bounds of the lengths that are known on the host, for backends that would wait for the device; this one asks.
    `softcap`: logits are softcap * tanh(logits / softcap), as in Gemma 2.
    """
    wide = torch.promote_types(queries.dtype, torch.float32)
    out = queries.new_zeros(*queries.shape[:2], values.shape[1])
    lse = torch.full(queries.shape[:2], -torch.inf, dtype=wide, device=queries.device)
    for segment, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        if length == 0:
            continue
        k, v = keys[start : start + length], values[start : start + length]
        logits = capped(queries[segment].to(wide) @ k.to(wide).T * scaling, softcap)
        lse[segment] = logits.logsumexp(-1)
        out[segment] = logits.softmax(-1).to(queries.dtype) @ v.to(queries.dtype)
    return out, lse
