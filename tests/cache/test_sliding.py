"""The layer for sliding-window attention: what transformers' own attends, with errors, and an end to what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from cokv.cache.sliding import TAKEN_BACK, SlidingLayer
from cokv.types import CokvError

WINDOW = 8


def draw(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    keys, values = (torch.randn(2, 2, tokens, 4, generator=generator) for _ in range(2))
    return keys, values


@pytest.mark.parametrize("spare", [0, 1])
@pytest.mark.parametrize("chunks", [(1, 1, 9, 1), (20, 1, 1), (7, 1, 1, 30, 1), (8, 3), (5, 2)])
def test_it_attends_what_transformers_layer_attends(chunks: tuple[int, ...], spare: int) -> None:
    ours, theirs = SlidingLayer(WINDOW, spare), DynamicSlidingWindowLayer(sliding_window=WINDOW)
    for tokens in chunks:
        pair = draw(tokens)
        for got, expected in zip(ours.update(*pair), theirs.update(*pair), strict=True):
            assert torch.equal(got, expected)
        assert torch.equal(ours.keys[:, :, -WINDOW + 1 :], theirs.keys)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.keys.shape[2] == min(ours.get_seq_length(), WINDOW - 1 + spare)


def test_a_long_prompt_leaves_a_window_of_storage() -> None:
    layer = SlidingLayer(WINDOW)
    layer.update(*draw(1000))
    assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * 4 and layer.keys.shape[2] == WINDOW - 1


@pytest.mark.skipif(not hasattr(SlidingLayer, "activate_past_recording"), reason="this transformers takes nothing back")
def test_tokens_are_taken_back_and_what_is_kept_for_that_has_an_end() -> None:
    layer: Any = SlidingLayer(WINDOW)
    layer.update(*draw(20))
    layer.activate_past_recording()
    before = layer.keys.clone()
    layer.update(*draw(5))
    layer.check_crop(5)
    layer.crop(-5)
    assert torch.equal(layer.keys, before) and layer.get_seq_length() == 20
    for _ in range(2 * TAKEN_BACK):
        attended, _ = layer.update(*draw(1))
        assert attended.shape[2] == WINDOW and layer.keys.shape[2] <= WINDOW + TAKEN_BACK
    layer.check_crop(TAKEN_BACK)
    with pytest.raises(CokvError, match="has dropped what the window held 300 tokens ago"):
        layer.check_crop(300)


def test_what_the_window_has_dropped_is_not_taken_back() -> None:
    layer = SlidingLayer(WINDOW)
    layer.update(*draw(6))
    layer.check_crop(6)
    layer.update(*draw(3))
    with pytest.raises(CokvError, match="has dropped what the window held 1 tokens ago"):
        layer.check_crop(1)


def test_reset_leaves_an_empty_layer() -> None:
    layer = SlidingLayer(WINDOW, spare=1)
    layer.update(*draw(20))
    layer.reset()
    assert layer.get_seq_length() == 0 and not layer.is_initialized and layer.spare == 1
    keys, _ = layer.update(*draw(3))
    assert torch.equal(keys, draw(3)[0])
