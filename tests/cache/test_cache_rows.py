"""What RaggedCache holds, counted plainly, and what becomes of it when rows are copied, reordered or leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from greedy_steps import generated, greedy, step
from transformers import PreTrainedModel

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import prefill
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]


# ---- what it holds


@pytest.mark.parametrize("slack", [1, 5, 32])
def test_it_stores_exactly_what_was_selected(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor], slack: int
) -> None:
    model, prefilled = make_model(), prefill(make_model(), prompt(60))
    selections = [Selection.from_mask(uneven_mask(3, 2, 60, seed)) for seed in range(3)]
    cache = RaggedCache.of(prefilled, selections, slack=slack)
    total = sum(s.budgets.total for s in selections)
    assert cache.stored_tokens == total
    assert [held.slots for held in cache.held()] == [s.total for s in selections]
    assert [held.bytes for held in cache.held()] == [s.total * prefilled.token_bytes for s in selections]
    assert cache.storage_bytes == (total + 3 * 3 * 2 * slack) * prefilled.token_bytes
    assert cache.get_seq_length() == 60, "transformers is told what was seen, not what is stored"
    for i in range(9):
        step(model, cache, torch.ones(3, 1, dtype=torch.long), 60 + i)
        assert cache.stored_tokens == total + (i + 1) * 3 * 3 * 2
        assert cache.storage_bytes >= cache.stored_tokens * prefilled.token_bytes
        assert cache.get_seq_length() == 61 + i


def test_a_cache_that_was_never_used_holds_nothing(make_model: MakeModel) -> None:
    cache = RaggedCache(make_model().config)
    assert cache.stored_tokens == 0 and cache.storage_bytes == 0 and cache.get_seq_length() == 0


def test_running_out_of_slack_changes_no_token(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor]
) -> None:
    model, prefilled = make_model(), prefill(make_model(), prompt(60))
    selection = Selection.from_mask(uneven_mask(3, 2, 60, 4))
    answers = [greedy(model, prefilled, RaggedCache.of(prefilled, [selection], slack=s)).tolist() for s in (1, 64)]
    assert answers[0] == answers[1]
    with pytest.raises(CokvError, match="at least 1"):
        RaggedCache.of(prefilled, [selection], slack=0)


def test_two_caches_of_one_prefill_do_not_meet(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model("qwen3-hybrid")
    prefilled = prefill(model, prompt(40))
    full = Selection.full(2, 2, 40)
    first = greedy(model, prefilled, RaggedCache.of(prefilled, [full]), 24).tolist()
    assert greedy(model, prefilled, RaggedCache.of(prefilled, [full]), 24).tolist() == first


# ---- rows


@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_beam_search_at_full_budget_is_the_models_own(make_model: MakeModel, prompt: Prompt, family: str) -> None:
    model, ids = make_model(family), prompt(30)
    expected = generated(model, ids, 24, num_beams=2)
    with ragged_attention(model):
        got = generated(model, ids, 24, num_beams=2, past_key_values=RaggedCache(model.config, slack=4))
    assert got.tolist() == expected.tolist()


def test_reordered_rows_are_copies_of_the_old_rows(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor]
) -> None:
    model, prefilled = make_model(), prefill(make_model(), prompt(60))
    selections = [Selection.from_mask(uneven_mask(3, 2, 60, seed)) for seed in range(3)]
    token = torch.tensor([[5], [6], [7]])
    for order in ([2, 0, 1], [1, 1, 0], [2]):
        cache, plain = RaggedCache.of(prefilled, selections), RaggedCache.of(prefilled, selections)
        for each in (cache, plain):
            step(model, each, token, 60)
        cache.reorder_cache(torch.tensor(order))
        moved = step(model, cache, torch.full((len(order), 1), 9), 61)
        torch.testing.assert_close(moved, step(model, plain, torch.full((3, 1), 9), 61)[order], rtol=0, atol=3e-6)
        kept = RaggedCache.of(prefilled, selections)
        step(model, kept, token, 60)
        kept.keep_rows(torch.tensor(order))
        torch.testing.assert_close(step(model, kept, torch.full((len(order), 1), 9), 61), moved, rtol=0, atol=1e-6)


def test_repeated_rows_are_alike_before_and_after_compression(make_model: MakeModel, prompt: Prompt) -> None:
    model, prefilled = make_model(), prefill(make_model(), prompt(20))
    cache = RaggedCache.of(
        prefilled, [Selection.full(3, 2, 20), Selection.from_mask(torch.arange(20).expand(3, 2, 20) > 9)]
    )
    cache.batch_repeat_interleave(2)
    logits = step(model, cache, torch.ones(4, 1, dtype=torch.long), 20)
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[2], logits[3])
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)
