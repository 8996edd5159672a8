"""ThinK: keys lose the channels that the last queries use least, in all but the newest tokens.

ThinK, arXiv 2407.21018; released in SalesforceAIResearch/ThinK, ThinK_eager/src/kv_pruning_utils.py
(key_pruner_query_driven). The score of channel i of a KV head is the Frobenius norm of Q[:, i] K[:, i]^T, which is
|Q[:, i]| |K[:, i]|: over the last `window_size` prompt tokens, after rotary embedding, and over all tokens that the
head keeps of the prompt. The `pruned` share of channels with the lowest scores leaves the keys of all those tokens but
the newest `recent`. Logits there are sums over the channels that stay, the same as with zeros in the others. Values
stay whole, and so do tokens that are read later. Tokens are those that the selection keeps: pruning and selection
compose.
Stored per head: which channels stay, a byte each (two above 256 channels).

Differs: the released code has a cache per query head and scores each alone; here the squared norms are summed over the
query heads that share a KV head. kvpress (presses/think_press.py) averages over these likewise, but sets the channels
to zero where they are, which saves no bytes, and in the newest tokens too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cokv.cache.policies.base import Policy
from cokv.types import CokvError

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class PruneChannels(Policy):
    """Keys of the prompt without the channels that are used least.

    window_size: last prompt tokens that say which. recent: newest kept tokens whose keys stay whole.
    """

    does = "drop the key channels that the last queries use least, in all but the newest tokens"

    pruned: float = 0.4  # share of head_dim
    window_size: int = 32
    recent: int = 32

    def __post_init__(self) -> None:
        if isinstance(self.pruned, bool) or not isinstance(self.pruned, int | float) or not 0 <= self.pruned < 1:
            raise CokvError(
                f"pruned is {self.pruned!r}, expected the share of key channels to drop: 0 or more, below 1"
            )
        for name, value, least in (("window_size", self.window_size, 1), ("recent", self.recent, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise CokvError(f"{name} is {value!r}, expected a whole number, {least} or more")

    @property
    def num_queries(self) -> int:
        """One more, for a prompt whose last token is run again."""
        return self.window_size + 1

    def dropped(self, head_dim: int) -> int:
        """Channels that go."""
        return int(head_dim * self.pruned + 1e-9)

    def query_norms(self, layer: PrefillLayer) -> torch.Tensor:
        """Squared norm of each query channel: float32 [num_kv_heads, head_dim]."""
        heads, seq_len, head_dim = layer.keys.shape
        held, needed = layer.window_queries.shape[1], min(self.window_size, seq_len)
        if held < needed:
            raise CokvError(
                f"the prefill holds {held} window queries, {needed} are needed; prefill with window={self.num_queries}"
            )
        last = layer.window_queries[:, held - needed :].reshape(heads, -1, head_dim)
        return last.float().square().sum(dim=1)

    def channels(self, query_norms: torch.Tensor, key_norms: torch.Tensor) -> torch.Tensor:
        """Channels that stay, ascending, of equals the lower: int64 [heads, kept].

        Squared norms over queries and over stored tokens, float32 [heads, head_dim] each.
        """
        head_dim = query_norms.shape[1]
        best = (query_norms * key_norms).sort(dim=1, descending=True, stable=True).indices
        return best[:, : head_dim - self.dropped(head_dim)].sort(dim=1).values

    def head_bytes(self, tokens: int, head_dim: int, itemsize: int) -> int:
        """What a head with so many tokens of the prompt takes, of a model whose numbers have `itemsize` bytes."""
        full, dropped = 2 * head_dim * itemsize, self.dropped(head_dim)
        if dropped == 0:
            return tokens * full
        saved = max(tokens - self.recent, 0) * dropped * itemsize
        return tokens * full - saved + (head_dim - dropped) * index_dtype(head_dim).itemsize


def index_dtype(head_dim: int) -> torch.dtype:
    """Of a channel's number."""
    return torch.uint8 if head_dim <= 256 else torch.int16
