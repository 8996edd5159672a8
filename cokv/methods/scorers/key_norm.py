"""Key norm: tokens with short keys stay. Reads only the keys.

"A simple and effective L2 norm-based strategy for KV cache compression", arXiv 2406.11430; released in
alessiodevoto/l2compress. Score: -||k||, in float32.
Differs: the released code leaves the first two layers whole; under one total that would cost the other layers their
slots, so every layer is compressed equally here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.methods.scorers.window import Windowless

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class KeyNorm(Windowless):
    """Minus the length of a key."""

    reads: ClassVar[str] = "keys"

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        return -torch.linalg.vector_norm(layer.keys.float(), dim=-1)
