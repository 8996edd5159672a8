"""Token scores of each layer of a prefill, and the scorer's measure of the prompt, computed once.

Methods with equal scorers share them, over all budgets. Knows neither allocators nor methods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from cokv.methods.scorers import Measures, Scorer
from cokv.model.device import LaterChecks
from cokv.types import CokvError, FloatArray

if TYPE_CHECKING:
    from cokv.cache.prefill import Prefill, PrefillLayer


@dataclass(frozen=True, eq=False)
class ScoredPrefill:
    """One scorer's scores of one prefill."""

    prefill: Prefill
    scores: list[torch.Tensor]  # float32 [num_kv_heads, seq_len] per layer
    measured: FloatArray | None = None  # float64 [num_layers, num_kv_heads, ...], once an allocator needs it


ScoreCache: TypeAlias = dict[Scorer, ScoredPrefill]


def score_prefill(
    scorer: Scorer, prefill: Prefill, cache: ScoreCache | None = None, measure: bool = False
) -> ScoredPrefill:
    """The scorer's scores of a prefill, from the cache if they are there; an entry of another prefill is replaced.

    measure: include the scorer's `measure`, which is added to cached scores without computing these again.
    """
    entry = cache.get(scorer) if cache is not None else None
    if entry is None or entry.prefill is not prefill:
        entry = ScoredPrefill(prefill, [score_layer(scorer, layer) for layer in prefill.layers])
    if measure and entry.measured is None:
        assert isinstance(scorer, Measures), scorer
        entry = replace(entry, measured=np.stack([scorer.measure(layer) for layer in prefill.layers]))
    if cache is not None:
        cache[scorer] = entry
    return entry


def score_layer(scorer: Scorer, layer: PrefillLayer) -> torch.Tensor:
    """The scorer's scores of one layer, float32 [num_kv_heads, seq_len]."""
    return ranking(scorer.scores(layer), layer)


def ranking(scores: torch.Tensor, layer: PrefillLayer) -> torch.Tensor:
    """The scores unchanged; CokvError if any is NaN, since tokens could not be ranked by it, or for another shape.

    Where the layer has somebody who asks later, NaN is only found then.
    """
    if scores.shape != layer.keys.shape[:2]:
        raise CokvError(
            f"token scores of layer {layer.layer_idx} have shape {list(scores.shape)}, expected "
            f"{list(layer.keys.shape[:2])}: one for each KV head and token"
        )
    checks = layer.checks or LaterChecks()
    checks.expect_not(
        torch.isnan(scores).any(),
        f"token scores of layer {layer.layer_idx} hold NaN; check the model's keys, queries and values, or try float32",
    )
    if layer.checks is None:
        checks.ask()
    return scores
