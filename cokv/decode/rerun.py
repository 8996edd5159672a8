"""The prompt without its last token, so that this token can be run again on a compressed cache.

Its K and V leave the cache and come back, as computed from what the row keeps; no position is held twice. Every head
holds it, in a slot of the head's own: see `holding_last`.
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
    """The Prefill of all tokens but the last; views, nothing is copied or computed."""
    if prefill.seq_len < 2:
        raise CokvError(
            "first_token='compressed' runs the last prompt token again on the rest of the prompt, but the prompt has "
            "one token; expected two or more"
        )
    sliding = {}
    for index, layer in prefill.sliding.items():
        if layer.get_seq_length() >= layer.sliding_window:
            raise CokvError(
                f"first_token='compressed': layer {index} has already dropped what the last token of a prompt of "
                f"{prefill.seq_len} tokens saw in its sliding window; prefill the prompt without its last token and "
                "give that token as `suffix`"
            )
        shorter: Any = copy.copy(layer)
        assert layer.keys is not None and layer.values is not None
        shorter.keys, shorter.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
        shorter.cumulative_length -= 1
        sliding[index] = shorter
    layers = [_shorter(layer) for layer in prefill.layers]
    return replace(prefill, input_ids=prefill.input_ids[:-1], layers=layers, sliding=sliding)


def _shorter(layer: PrefillLayer) -> PrefillLayer:
    window = layer.window_queries[:, :-1]
    return replace(layer, keys=layer.keys[:, :-1], values=layer.values[:, :-1], window_queries=window, unread=1)


def holding_last(rows: list[Row]) -> list[Kept]:
    """What the rows keep, the last token in every head, and no head larger than it was.

    A head that had dropped the last token drops the newest of its others for it: a selection says no more of its tokens
    than their positions. One that had nothing takes a slot of the row's largest head, so that the total stays; in a
    Choice, whose heads share their sets, it has one slot of its own. Rows that evict by attention are left as they are:
    their rule makes room when the token is read.
    """
    patterns: dict[int, torch.Tensor] = {}
    kept: list[Kept] = []
    for row in rows:
        selection = row.selection
        if isinstance(row.policy, EvictsByAttention):
            kept.append(selection)
        elif isinstance(selection, HeadMask):
            had = selection.patterns
            if id(had) not in patterns:
                patterns[id(had)] = _swapped(had)
            kept.append(HeadMask(patterns[id(had)], selection.which))
        else:
            kept.append(_of_one_size(selection))
    return kept


def _swapped(mask: torch.Tensor) -> torch.Tensor:
    """bool [sets, seq_len]: each set with the last position, in place of its newest."""
    mask = mask.clone()
    lacking = ~mask[:, -1]
    _drop_newest(mask, lacking & mask.any(1))
    mask[:, -1] = True
    return mask


def _of_one_size(selection: Selection) -> Selection:
    if _all_hold_last(selection):
        return selection
    mask = _swapped(selection.mask().flatten(0, 1))
    for _ in range(int((selection.counts == 0).sum())):
        largest = torch.zeros(len(mask), dtype=torch.bool)
        largest[int(mask.sum(1).numpy().argmax())] = True
        _drop_newest(mask[:, :-1], largest & mask[:, :-1].any(1))
    return Selection.from_mask(mask.view(*selection.counts.shape, -1))


def _drop_newest(mask: torch.Tensor, chosen: torch.Tensor) -> None:
    """Of the chosen sets, bool [sets], none of them empty; in place."""
    newest = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    mask[chosen, newest[chosen]] = False


def _all_hold_last(selection: Selection) -> bool:
    if (selection.counts == 0).any():
        return False
    ends = np.cumsum(selection.counts) - 1
    return bool((selection.positions[torch.from_numpy(ends)] == selection.seq_len - 1).all())


def expect_last(cache: RaggedCache) -> None:
    """Heads that stay at the size they have will have it when the last token has been read."""
    for layer in cache.ragged_layers:
        for _, store in layer.parts:
            if isinstance(store, PlainRows):
                for evictor in store.evictors:
                    if isinstance(evictor, OldestEvictor):
                        evictor.expect(store.store, 1)


def shortened(rows: list[Kept]) -> list[Kept]:
    """The same rows on the prompt without its last token; Choices that shared their patterns still do."""
    patterns = {id(row.patterns): row.patterns[:, :-1] for row in rows if isinstance(row, HeadMask)}
    return [
        HeadMask(patterns[id(row.patterns)], row.which)
        if isinstance(row, HeadMask)
        else Selection.from_mask(row.mask()[..., :-1])
        for row in rows
    ]
