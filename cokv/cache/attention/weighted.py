"""Attention that tells its weights, over segments of one length that lie one behind the other: no gather, no mask.

The logits are computed once, for output and weights. Plain torch, on any device; what is not even goes through a
backend and `weights`.
"""

from __future__ import annotations

import torch

from cokv.cache.attention.backend import with_sinks
from cokv.cache.attention.reference import capped


def attend_even(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Output [segments, rows, head_dim] in the queries' dtype, log-sum-exp [segments, rows] or None where nobody needs
    it, weights float32 [segments, rows, tokens].

    queries [segments, rows, channels]; keys [segments, tokens, channels]; values [segments, tokens, head_dim]; softcap,
    sinks: see backend.py. Rounds as `reference.attend` does.
    """
    wide = torch.promote_types(queries.dtype, torch.float32)
    logits = capped(queries.to(wide) @ keys.to(wide).transpose(1, 2) * scaling, softcap)
    weights = logits.softmax(-1)
    out = weights.to(queries.dtype) @ values.to(queries.dtype)
    if sinks is None:
        return out, None, weights.float()
    out, lse = with_sinks(out, logits.logsumexp(-1), sinks)
    return out, lse, (logits - lse[..., None]).exp().float()
