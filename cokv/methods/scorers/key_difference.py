"""Key difference: tokens whose keys point away from the mean key stay. Reads only the keys.

KeyDiff, arXiv 2504.15364. Score: minus the cosine between a key and the anchor, the mean of all keys scaled to length
one, in float32.
Differs: the paper also reads a long prompt in blocks and evicts after each; here the whole prompt is read first, as
for every method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from cokv.methods.scorers.window import Windowless

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class KeyDifference(Windowless):
    """Minus the cosine between a key and the mean direction of all keys."""

    reads: ClassVar[str] = "keys"

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        keys = layer.keys.float()
        anchor = F.normalize(keys, dim=-1).mean(dim=1, keepdim=True)
        return -F.cosine_similarity(keys, anchor, dim=-1)
