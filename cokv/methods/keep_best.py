"""The last step of every method: each head keeps as many of its best-scored tokens as it has slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cokv.model.device import sent
from cokv.types import Budgets, CokvError, Selection

if TYPE_CHECKING:
    from cokv.cache.prefill import Prefill


def best_positions(scores: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """Each head's best-scored tokens, ties to the lower position (a stable sort gives the same on every device).

    scores [num_kv_heads, seq_len]; counts: tokens of each head, known on the host, so that nothing waits for the
    device. Positions int64 [count] of each head, ascending, on the scores' device.
    """
    seq_len, width = scores.shape[1], max(counts)
    assert width <= seq_len, (width, seq_len)
    best = scores.sort(dim=-1, descending=True, stable=True).indices[:, :width]
    if min(counts) < width:
        some = sent(torch.tensor(counts), scores.device)
        best = best.masked_fill(torch.arange(width, device=scores.device) >= some[:, None], seq_len)  # goes last
    ascending = best.sort(dim=-1).values
    return [head[:count] for head, count in zip(ascending, counts, strict=True)]


def keep_best(scores: list[torch.Tensor], budgets: Budgets) -> Selection:
    """Each head's best-scored tokens, of all layers. Waits for the device."""
    positions = [
        torch.cat(best_positions(layer, counts)).cpu()
        for layer, counts in zip(scores, budgets.values.tolist(), strict=True)
    ]
    return Selection(torch.cat(positions), budgets.values, scores[0].shape[1])


def prefill_shape(prefill: Prefill) -> tuple[int, int, int]:
    """num_layers, num_kv_heads, seq_len"""
    heads = {layer.keys.shape[0] for layer in prefill.layers}
    if len(heads) != 1:
        raise CokvError(f"layers have {sorted(heads)} KV heads, expected one number, the same in every layer")
    return len(prefill.layers), heads.pop(), prefill.seq_len
