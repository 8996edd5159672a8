"""Max-pooling of token scores: a token is worth what the best of its neighbours is, so that they stay together.

SnapKV, arXiv 2404.14469, section 4.2. Over a prompt neighbours are columns; in a cache from which tokens have gone,
they are the stored tokens whose positions are near.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def pool(scores: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """[rows, seq_len] -> a new tensor of that shape; kernel_size odd."""
    if kernel_size == 1:
        return scores.clone()
    return F.max_pool1d(scores, kernel_size, stride=1, padding=kernel_size // 2)


def pool_by_position(scores: torch.Tensor, positions: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """The same for stored tokens in any order: [heads, tokens] each; columns without a token have position -1."""
    if kernel_size == 1:
        return scores
    ordered, order = positions.long().sort(dim=1)
    pooled = scores.gather(1, order)
    best = pooled.clone()
    for step in range(1, kernel_size // 2 + 1):  # positions are distinct: no neighbour is further off in this order
        near = (ordered[:, step:] - ordered[:, :-step] <= kernel_size // 2) & (ordered[:, :-step] >= 0)
        later, earlier = pooled[:, step:], pooled[:, :-step]
        best[:, :-step] = torch.where(near, torch.maximum(best[:, :-step], later), best[:, :-step])
        best[:, step:] = torch.where(near, torch.maximum(best[:, step:], earlier), best[:, step:])
    return torch.empty_like(best).scatter_(1, order, best)
