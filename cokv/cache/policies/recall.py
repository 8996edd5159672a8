"""ArkVale: all pages stay in CPU memory, the most wanted come back at each step.

ArkVale, Chen et al., NeurIPS 2024, openreview.net/forum?id=4oAt5L4lYe; released in pku-liang/ArkVale,
source/arkvale/infer_state.py. A head's stored tokens are pages of `page` tokens. Each complete page leaves a digest
with the model: the smallest and the largest value of every key channel, `low` and `high`. A page's
score for a query is the sum over channels of max(q * high, q * low), an upper bound of the query's product with any key
of the page; the query heads that share a KV head add theirs. The oldest page, the newest complete page and the page
that is being filled always stay; the highest scores fill the rest of `limit` slots, ties to the lower page. What is
left of the slots when no whole page fits any more goes to the newest tokens of the page that ranks next, so that a head
with `limit` tokens or more attends exactly `limit`. Digests are charged in bytes; pages in CPU memory are reported
beside.

Differs: in the paper all pages are whole. The released code draws the box in, to the mean distance from its centre,
keeps two sink pages by default and chooses the same pages in all heads of a layer; here the box holds all keys, and
each KV head chooses for itself. A cap on the logits rises with them, so that the bound of a page stays one; pages are
ranked by the sum of the uncapped bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cokv.cache.policies.base import LimitedPolicy
from cokv.types import Infeasible


@dataclass(frozen=True)
class Recall(LimitedPolicy):
    """`limit`: slots per head, the page being filled included."""

    does = "bring the most wanted pages back from CPU memory"

    limit: int | None = None
    page: int = 32

    def __post_init__(self) -> None:
        if self.page < 1 or (self.limit is not None and self.limit < 4 * self.page):
            raise Infeasible(
                f"{self.limit} slots per head in pages of {self.page}; expected at least {4 * max(self.page, 1)}: the "
                "oldest page, the two newest, and one to recall. Raise the budget or make `page` smaller"
            )

    @property
    def places(self) -> int:
        """Complete pages with the model at once, at most, one that is cut included."""
        return math.ceil((self.slots - 1) / self.page)

    def room(self, counts: torch.Tensor, filled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How many complete pages a head attends whole, and how many tokens of one more: int64 [heads] each.

        counts, filled int64 [heads]: complete pages, and tokens of the page that is being filled.
        """
        free = self.slots - filled
        whole = torch.minimum(counts, free // self.page)
        return whole, torch.where(counts > whole, free % self.page, 0)

    def scores(
        self, queries: torch.Tensor, low: torch.Tensor, high: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        """float32 [heads, pages]: inf for pages that must stay, -inf for those that are not there.

        queries [heads, group_size, head_dim]; low, high [heads, pages, head_dim]; counts int64 [heads], complete pages.
        """
        # max(q hi, q lo) is q hi for positive q, and q lo for negative: two products.
        up, down = queries.float().clamp(min=0).sum(1), queries.float().clamp(max=0).sum(1)
        scores = (high.float() @ up[..., None] + low.float() @ down[..., None])[..., 0]
        number = torch.arange(scores.shape[1], device=scores.device)
        scores = scores.masked_fill((number == 0) | (number == counts[:, None] - 1), torch.inf)
        return scores.masked_fill(number >= counts[:, None], -torch.inf)
