"""The compression of a cache that came from a file: it has chosen what stays, and what follows is in the stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cokv.cache.policies.base import Policy
from cokv.cache.prefill import PrefillLayer
from cokv.model.shape import Shape
from cokv.types import CokvError


@dataclass(frozen=True, eq=False)
class Loaded:
    """See cokv.cache.compression.Compression. `facts`: of the method, as the file has them."""

    shape: Shape
    facts_of_method: Mapping[str, Any]
    window = 1
    observers = ()
    layer_local = True
    positions_are_sound = True
    further_passes = False

    def facts(self) -> dict[str, Any]:
        return dict(self.facts_of_method)

    @property
    def no_prompt(self) -> str:
        """Why it reads no prompt."""
        facts = self.facts_of_method
        return (
            "this cache was loaded from a file and holds that prompt only; for another one make a cache by "
            f"cokv.compress(model, {facts.get('method')!r}, kv_budget={facts.get('kv_budget')!r})"
        )

    def positions(self, layers: Sequence[PrefillLayer], place: int | None) -> list[list[torch.Tensor]]:
        raise CokvError(self.no_prompt)

    def policy(self, seq_len: int) -> Policy:
        raise CokvError(self.no_prompt)
