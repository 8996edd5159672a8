"""Attention weights of a few queries over flat storage, for those who must know them: one gather, one product."""

from __future__ import annotations

import torch

from cokv.cache.attention.reference import capped


def weights(
    queries: torch.Tensor,
    keys: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    lse: torch.Tensor,
    scaling: float,
    width: int,
    softcap: float | None = None,
) -> torch.Tensor:
    """float32 [segments, rows, width], zero beyond a segment's length.

    queries [segments, rows, head_dim]; keys [slots, head_dim]; starts, lengths int64 [segments]; lse [segments, rows],
    the log-sum-exp that attention gave, of which a sink may be a part. softcap: see reference.attend.
    """
    offsets = torch.arange(width, device=queries.device)
    inside = offsets < lengths[:, None]
    slots = torch.where(inside, starts[:, None] + offsets, starts[:, None])
    wide = torch.promote_types(queries.dtype, torch.float32)
    logits = capped(queries.to(wide) @ keys[slots].to(wide).transpose(1, 2) * scaling, softcap)
    return (logits - lse[..., None]).exp().masked_fill(~inside[:, None], 0).float()
