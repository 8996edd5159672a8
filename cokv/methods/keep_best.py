"""The last step of every method: each head keeps as many of its best-scored tokens as it has slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cokv.types import Budgets, CokvError, Selection

if TYPE_CHECKING:
    from cokv.cache.prefill import Prefill


def keep_best(scores: list[torch.Tensor], budgets: Budgets) -> Selection:
    """Each head's best-scored tokens, ties to the lower position (a stable sort gives the same on every device)."""
    positions, seq_len = [], scores[0].shape[1]
    for layer, counts in zip(scores, budgets.values, strict=True):
        order = layer.sort(dim=-1, descending=True, stable=True).indices
        rank = torch.arange(seq_len, device=layer.device)
        kept = rank < torch.tensor(counts, device=layer.device)[:, None]
        mask = torch.zeros_like(kept).scatter_(-1, order, kept)
        positions.append(mask.nonzero()[:, 1].cpu())
    return Selection(torch.cat(positions), budgets.values, seq_len)


def prefill_shape(prefill: Prefill) -> tuple[int, int, int]:
    """num_layers, num_kv_heads, seq_len"""
    heads = {layer.keys.shape[0] for layer in prefill.layers}
    if len(heads) != 1:
        raise CokvError(f"layers have {sorted(heads)} KV heads, expected one number, the same in every layer")
    return len(prefill.layers), heads.pop(), prefill.seq_len
