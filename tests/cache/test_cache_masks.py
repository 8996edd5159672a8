"""Masks after the prompt: what a compressed cache follows, and what it refuses, since it attends all that it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from greedy_steps import generated
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.attention.masks import check_plain
from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]


def two_turns(
    model: PreTrainedModel, cache: Cache, padding_mask: torch.Tensor, first: int, float_masks: bool
) -> torch.Tensor:
    """Logits [rows, tokens of the second turn, vocab_size]; seen int64 [rows, tokens], `first` of them the prompt's."""
    ids = torch.randint(1, 97, padding_mask.shape, generator=torch.Generator().manual_seed(7))
    positions = (padding_mask.cumsum(1) - 1).clamp(min=0)
    for a, b in ((0, first), (first, padding_mask.shape[1])):
        model_mask: torch.Tensor = padding_mask[:, :b]
        if float_masks and a:
            allowed = (model_mask[:, None, None] == 1) & torch.ones(b, b, dtype=torch.bool).tril()[a:]
            model_mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
        with ragged_attention(model), torch.no_grad():
            logits: torch.Tensor = model(
                ids[:, a:b], attention_mask=model_mask, past_key_values=cache, position_ids=positions[:, a:b]
            ).logits
    return logits


@pytest.mark.parametrize(
    ("family", "float_masks"),  # one mask of a caller's own cannot be that of sliding layers too
    [("llama", False), ("llama", True), ("qwen3-hybrid", False)],
)
@pytest.mark.parametrize("new", [1, 8])
def test_a_second_turn_after_a_padded_prompt_is_the_models_own(
    make_model: MakeModel, family: str, new: int, float_masks: bool
) -> None:
    model, padding_mask = make_model(family), torch.ones(3, 30 + new, dtype=torch.long)
    padding_mask[0, :12], padding_mask[2, :5] = 0, 0
    expected = two_turns(model, DynamicCache(config=model.config), padding_mask, 30, float_masks)
    cache = RaggedCache(model.config)
    torch.testing.assert_close(two_turns(model, cache, padding_mask, 30, float_masks), expected, rtol=0, atol=2e-5)
    cache.reorder_cache(torch.tensor([2, 2, 0]))
    cache.keep_rows(torch.tensor([0, 2]))
    after = torch.cat([padding_mask[[2, 0]], torch.ones(2, 1, dtype=torch.long)], dim=1)
    with ragged_attention(model), torch.no_grad():
        model(torch.ones(2, 1, dtype=torch.long), attention_mask=after, past_key_values=cache)
        with pytest.raises(CokvError, match=r"rows \[0\] hides"):
            wrong = torch.cat([padding_mask[[0, 0]], torch.ones(2, 2, dtype=torch.long)], dim=1)
            model(torch.ones(2, 1, dtype=torch.long), attention_mask=wrong, past_key_values=cache)


@pytest.mark.parametrize("float_masks", [False, True], ids=["bool", "float"])
@pytest.mark.parametrize("hidden", [(1, 30), (1, 37), (0, 3), (1, 21)], ids=str)
@pytest.mark.parametrize("new", [1, 8])
def test_a_mask_that_hides_what_the_cache_holds_is_refused(
    make_model: MakeModel, new: int, hidden: tuple[int, int], float_masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding of a second turn, and tokens of the prompt itself: either would be attended all the same."""
    monkeypatch.setattr("cokv.cache.attention.masks.AT_ONCE", 200)  # a few queries at a time
    model, padding_mask = make_model(), torch.ones(2, 30 + new, dtype=torch.long)
    first, last = (padding_mask[:, :30].clone(), min(hidden[1], 29 + new))
    first[1, :20] = 0
    padding_mask[1, :20] = 0
    cache = RaggedCache(model.config)
    with ragged_attention(model), torch.no_grad():
        model(torch.ones(2, 30, dtype=torch.long), attention_mask=first, past_key_values=cache)
    later = (
        torch.ones_like(padding_mask).index_put((torch.tensor(hidden[0]), torch.tensor(last)), torch.tensor(0))
        * padding_mask
    )
    model_mask = later
    if float_masks:
        allowed = (later[:, None, None] == 1) & torch.ones(30 + new, 30 + new, dtype=torch.bool).tril()[30:]
        model_mask = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
    with (
        ragged_attention(model),
        torch.no_grad(),
        pytest.raises(CokvError, match=rf"rows \[{hidden[0]}\] hides tokens"),
    ):
        model(torch.ones(2, new, dtype=torch.long), attention_mask=model_mask, past_key_values=cache)


def test_a_mask_that_shows_later_tokens_or_has_another_shape_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(9)[None]
    for mask, message in (
        (torch.ones(1, 1, 9, 29, dtype=torch.bool), "shows later ones"),
        (torch.ones(1, 1, 9, 9, dtype=torch.bool).tril(), r"shape \[1, 1, 9, 9\], expected \[1, 1, 9, 29\]"),
    ):
        cache = RaggedCache.of(prefill(model, prompt(20)), [Selection.full(3, 2, 20)])
        with ragged_attention(model), torch.no_grad(), pytest.raises(CokvError, match=message):
            model(ids, attention_mask=mask, past_key_values=cache)


def test_steps_without_padding_bring_no_mask_to_look_at(
    make_model: MakeModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every token would wait for the device; and of a chunk's mask, one layer's look is enough."""
    model, prefilled, masks = make_model(), prefill(make_model(), prompt(20)), []

    def spy(mask: torch.Tensor | None, *rest: Any) -> None:
        masks.append(mask)
        check_plain(mask, *rest)

    monkeypatch.setattr("cokv.cache.layer.check_plain", spy)
    decode(model, prefilled, [Row(Selection.full(3, 2, 20))] * 3, Stop(6), suffix=prompt(4))
    assert len(masks) == 6 and masks[0] is not None and masks[1:] == [None] * 5
    masks.clear()
    with ragged_attention(model):
        generated(model, prompt(20), 6, past_key_values=RaggedCache(model.config))
    assert masks == [None] * 5


def test_right_padding_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    padding_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with (
        ragged_attention(model),
        torch.no_grad(),
        pytest.raises(CokvError, match="hides tokens after the first one"),
    ):
        model(torch.ones_like(padding_mask), attention_mask=padding_mask, past_key_values=RaggedCache(model.config))
