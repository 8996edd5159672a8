"""Two classes of heads: retrieval heads keep everything, the others sinks and the newest tokens.

DuoAttention, arXiv 2410.10819, released in mit-han-lab/duo-attention, duo_attn/utils.py (sparsify_attention_heads);
RazorAttention, arXiv 2407.15891. The heads with the highest scores are retrieval heads; the scores are Duo's trained
gates, or Razor's echo and induction. The scorer is recency with sinks (scorers/streaming.py), so a head's slots are its
sinks and a local window.

retrieval_share None: as many retrieval heads as the total can pay for, while the others keep sinks and `local` newest
tokens (Duo; equivalent to a quantile as threshold). A share: that share of all heads, at least one, are retrieval
heads, and the total must pay for them (Razor). In both cases the remaining slots widen the local windows evenly. A
total that does not pay for the share, or for a single whole head, is infeasible: without whole heads it would be
another method, StreamingLLM.

Differs: both papers fix the windows and report the resulting memory; here the total is fixed. Razor's compensation
token, the mean of the dropped tokens, is no prompt position: a policy adds it (cokv/cache/policies/compensate.py), in
one of the head's slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from cokv.methods.allocators import LooksAt
from cokv.methods.allocators.integerize import integerize
from cokv.methods.allocators.profile import head_scores
from cokv.methods.scorers.checks import require_number
from cokv.types import Budgets, CokvError, HeadScores, Infeasible


@dataclass(frozen=True)
class RetrievalStreaming:
    """Retrieval heads keep the whole prompt, all others sinks and the newest tokens.

    local: newest tokens that every other head keeps at least. retrieval_share: share of all heads that are retrieval
    heads, above 0 and below 1; None: as many as the total can pay for.
    """

    looks_at: ClassVar[LooksAt] = "shape"
    exact: ClassVar[bool] = True

    local: int = 256
    retrieval_share: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.local, bool) or not isinstance(self.local, int) or self.local < 1:
            raise CokvError(f"local is {self.local!r}, expected a positive whole number of newest tokens")
        if self.retrieval_share is not None:
            expected = "a share of the heads above 0 and below 1, or None: as many as fit"
            require_number(self, "retrieval_share", expected, lambda share: 0 < share < 1)

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: HeadScores | None
    ) -> Budgets:
        shape = (len(scores), scores[0].shape[0])
        values = head_scores(profile, *shape, "RetrievalStreaming").reshape(-1)
        heads, least = values.size, min(reserved + self.local, seq_len)
        count = self._whole_heads(heads, total, seq_len, least)
        needed = count * seq_len + (heads - count) * least
        if needed > total:
            raise Infeasible(
                f"{count} whole head{'s' * (count > 1)}, and {reserved} sinks and {self.local} newest tokens in each "
                f"other head, need {needed} KV slots, the total is {total}; set kv_budget to at least "
                f"{-(-needed // heads)} for a prompt of {seq_len} tokens"
            )
        budgets = np.full(heads, seq_len, dtype=np.int64)
        streaming = np.sort(np.argsort(-values, kind="stable")[count:])  # ties: lower index retrieves
        if streaming.size:
            left = min(total - (heads - streaming.size) * seq_len, streaming.size * seq_len)
            even = np.full((1, streaming.size), left / streaming.size)
            budgets[streaming] = integerize(even, left, seq_len, least).values[0]
        return Budgets(budgets.reshape(shape))

    def facts(self, total: int, seq_len: int, reserved: int, profile: HeadScores) -> dict[str, float]:
        """How many heads keep the whole prompt."""
        least = min(reserved + self.local, seq_len)
        return {"whole_heads": float(self._whole_heads(profile.values.size, total, seq_len, least))}

    def check_floor(self, slots: int, heads: int, reserved: int) -> None:
        """Raises Infeasible for a budget at which no prompt longer than it could be compressed."""
        count = 1 if self.retrieval_share is None else self._whole_heads(heads, 0, 0, 0)
        if count >= heads:
            raise Infeasible(f"{count} whole heads of {heads} leave none to compress; use a model with more KV heads")
        least = reserved + self.local - (-count // (heads - count))
        if slots < least:
            raise Infeasible(
                f"{count} whole head{'s' * (count > 1)}, and {reserved} sinks and {self.local} newest tokens in each "
                f"other head, need at least {least} KV slots per head on any prompt that is to be compressed, and more "
                f"the longer it is; kv_budget is {slots}"
            )

    def _whole_heads(self, heads: int, total: int, seq_len: int, least: int) -> int:
        """At least one, whether the total pays for it or not."""
        if self.retrieval_share is not None:
            return max(round(self.retrieval_share * heads), 1)
        return min(max((total - heads * least) // (seq_len - least), 1), heads) if seq_len > least else heads
