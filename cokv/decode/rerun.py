"""The prompt without its last token, so that this token can be run again on a compressed cache.

Its K and V are dropped and recomputed from what the row keeps; no position is stored twice. Every head keeps it, within
the head's own budget: see `holding_last`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cokv.cache.cache import RaggedCache
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.prefill import Prefill, PrefillLayer
from cokv.cache.storage.evictors import OldestEvictor
from cokv.cache.storage.plain import PlainRows
from cokv.decode.batches import Row
from cokv.decode.head_mask import HeadMask, Kept
from cokv.types import CokvError, Selection


def without_last(prefill: Prefill) -> Prefill:
    """The Prefill of all tokens but the last, as views: nothing is copied or computed."""
    if prefill.seq_len < 2:
        raise CokvError(
            "first_token='compressed' runs the last prompt token again on the rest of the prompt, but the prompt has "
            "one token; expected two or more"
        )
    sliding = {}
    for index, layer in prefill.sliding.items():
        assert layer.keys is not None and layer.values is not None
        assert layer.keys.shape[2] >= min(layer.sliding_window, prefill.seq_len), "a prefill keeps one token to spare"
        shorter: Any = copy.copy(layer)
        shorter.keys, shorter.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
        shorter.cumulative_length -= 1
        sliding[index] = shorter
    layers = [_shorter(layer) for layer in prefill.layers]
    return replace(prefill, input_ids=prefill.input_ids[:-1], layers=layers, sliding=sliding)


def _shorter(layer: PrefillLayer) -> PrefillLayer:
    window = layer.window_queries[:, :-1]
    return replace(layer, keys=layer.keys[:, :-1], values=layer.values[:, :-1], window_queries=window, unread=1)


def holding_last(rows: list[Row]) -> list[Kept]:
    """What the rows keep, changed so that every head keeps the last token and no head that kept any grows.

    A head that had dropped the last token drops its newest token instead (a selection records positions, not scores).
    An empty head takes a slot from the row's largest head, so that the total stays; in a HeadMask, whose heads share
    patterns, it gets one slot more. Rows that evict by attention are unchanged: their policy makes room when the token
    is read.
    """
    patterns: dict[int, torch.Tensor] = {}
    kept: list[Kept] = []
    for row in rows:
        selection = row.selection
        if isinstance(row.policy, EvictsByAttention):
            kept.append(selection)
        elif isinstance(selection, HeadMask):
            key = id(selection.patterns)
            if key not in patterns:
                patterns[key] = _with_last(selection.patterns)
            kept.append(HeadMask(patterns[key], selection.which))
        else:
            kept.append(_selection_with_last(selection))
    return kept


def _with_last(mask: torch.Tensor) -> torch.Tensor:
    """bool [sets, seq_len]: the last position replaces the newest one in every set that lacks it."""
    mask = mask.clone()
    lacking = ~mask[:, -1]
    _drop_newest(mask, lacking & mask.any(1))
    mask[:, -1] = True
    return mask


def _selection_with_last(selection: Selection) -> Selection:
    """The last position in every head, with the same total."""
    if _all_hold_last(selection):
        return selection
    mask = _with_last(selection.mask().flatten(0, 1))
    for _ in range(int((selection.counts == 0).sum())):
        largest = torch.zeros(len(mask), dtype=torch.bool)
        largest[int(mask.sum(1).numpy().argmax())] = True
        _drop_newest(mask[:, :-1], largest & mask[:, :-1].any(1))
    return Selection.from_mask(mask.view(*selection.counts.shape, -1))


def _drop_newest(mask: torch.Tensor, sets: torch.Tensor) -> None:
    """Drops the newest position of the sets that `sets`, bool [sets], marks, none of them empty; in place."""
    newest = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    mask[sets, newest[sets]] = False


def _all_hold_last(selection: Selection) -> bool:
    if (selection.counts == 0).any():
        return False
    ends = np.cumsum(selection.counts) - 1
    return bool((selection.positions[torch.from_numpy(ends)] == selection.seq_len - 1).all())


def expect_last(cache: RaggedCache) -> None:
    """Tells heads of fixed size that one more token, the last of the prompt, is still to be read."""
    for layer in cache.ragged_layers:
        for _, store in layer.parts:
            if isinstance(store, PlainRows):
                for evictor in store.evictors:
                    if isinstance(evictor, OldestEvictor):
                        evictor.expect(store.store, 1)


def shortened(rows: list[Kept]) -> list[Kept]:
    """The same rows on the prompt without its last token; HeadMasks that shared their patterns still do."""
    patterns = {id(row.patterns): row.patterns[:, :-1] for row in rows if isinstance(row, HeadMask)}
    return [
        HeadMask(patterns[id(row.patterns)], row.which)
        if isinstance(row, HeadMask)
        else Selection.from_mask(row.mask()[..., :-1])
        for row in rows
    ]
