"""RazorAttention's compensation token: one slot of a head stands for all tokens it has dropped.

RazorAttention, arXiv 2407.15891, section 3.2 (no code was released). Of N dropped tokens the head keeps the mean key
and the mean value, after rotary embedding; in attention it counts N times: log N is added to its logit. Heads that keep
the whole prompt have none, and grow. A head that lost tokens stays at its size while decoding: each new token takes the
slot of the oldest that is no sink, which joins the mean.

The slot is the head's own: of what the selection gave it, the first token after the sinks makes room.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cokv.cache.policies.base import Policy
from cokv.types import CokvError


@dataclass(frozen=True)
class Compensate(Policy):
    """One slot of a head that lost tokens is the mean of them.

    num_sinks: first tokens that stay.
    """

    does = "in heads that lost tokens, one slot stands for all of them, and the oldest that is no sink joins it"

    num_sinks: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.num_sinks, bool) or not isinstance(self.num_sinks, int) or self.num_sinks < 0:
            raise CokvError(f"num_sinks is {self.num_sinks!r}, expected a whole number, 0 or more")

    def kept(self, positions: torch.Tensor, seq_len: int) -> torch.Tensor:
        """What remains of a head's selected positions beside the compensation token."""
        if positions.numel() in (0, seq_len):
            return positions
        out = min(self.num_sinks, positions.numel() - 1)
        return torch.cat([positions[:out], positions[out + 1 :]])
