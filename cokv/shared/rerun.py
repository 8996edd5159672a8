"""The prompt without its last token, so that this token can be run again on a compressed cache.

Its K and V leave the cache and come back, as computed from what the row keeps; no position is held twice. A head that
would have dropped the last token holds it nevertheless: it has just read it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from cokv.prefill import Prefill, PrefillLayer
from cokv.shared.choice import Choice, Kept
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


def shortened(rows: list[Kept]) -> list[Kept]:
    """The same rows on the prompt without its last token; Choices that shared their patterns still do."""
    patterns = {id(row.patterns): row.patterns[:, :-1] for row in rows if isinstance(row, Choice)}
    return [
        Choice(patterns[id(row.patterns)], row.which)
        if isinstance(row, Choice)
        else Selection.from_mask(row.mask()[..., :-1])
        for row in rows
    ]
