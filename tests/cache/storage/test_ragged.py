"""Flat storage: what is appended is there, capped segments have no slack, and what never grows is never moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from cokv.cache.attention import buckets
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.prefill import Prefill, prefill
from cokv.cache.storage.ragged import RaggedStorage
from cokv.methods.policies.h2o import H2OEviction
from cokv.types import Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
LIMIT, SEQ_LEN = 24, 60


def contents(store: RaggedStorage) -> list[list[float]]:
    spans = zip(store.starts.tolist(), store.lengths.tolist(), strict=True)
    return [store.k[start : start + length, 0].tolist() for start, length in spans]


@settings(deadline=None, max_examples=60)
@given(
    segments=st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 6)), min_size=1, max_size=6),
    slack=st.integers(1, 5),
    steps=st.integers(1, 30),
    select=st.sampled_from(["", "keep", "copy"]),
)
def test_segments_hold_what_was_appended_and_no_slack_beyond_their_cap(
    segments: list[tuple[int, int | None]], slack: int, steps: int, select: str
) -> None:
    """Segments (length, slots that it may still get; None: any number). A full one is overwritten at its beginning."""
    lengths = torch.tensor([length for length, _ in segments])
    tokens = torch.arange(int(lengths.sum())).float()[:, None]
    store = RaggedStorage(tokens, tokens, lengths, slack, buckets.attend)
    naive = [part[:, 0].tolist() for part in tokens.split(lengths.tolist())]
    caps = [length + more if more is not None and length + more > 0 else None for length, more in segments]
    capped = torch.tensor([i for i, cap in enumerate(caps) if cap is not None], dtype=torch.int64)
    if capped.numel():
        store.cap(capped, torch.tensor([cap for cap in caps if cap is not None]))
    moves = 0
    for step in range(steps):
        new, before = torch.full((len(naive), 1), 1000.0 + step), store.k.data_ptr()
        full = torch.tensor([len(head) == cap for head, cap in zip(naive, caps, strict=True)])
        store.append(new, new, torch.where(full, 0, store.lengths), ~full)
        for head, is_full in zip(naive, full.tolist(), strict=True):
            if is_full:
                head[0] = 1000.0 + step
            else:
                head.append(1000.0 + step)
        moves += store.k.data_ptr() != before
        assert contents(store) == naive
        assert all(room <= cap for room, cap in zip(store.capacities.tolist(), caps, strict=True) if cap is not None)
        assert store.storage_bytes == int(store.capacities.sum()) * 8 >= sum(map(len, naive)) * 8
        if select and step == steps // 2:
            order = list(range(len(naive)))[::-1] if select == "copy" else list(range(0, len(naive), 2))
            (store.copy_segments if select == "copy" else store.keep_segments)(torch.tensor(order))
            naive, caps = [list(naive[i]) for i in order], [caps[i] for i in order]
    if not select and all(cap is not None for cap in caps):
        assert moves <= 1 + 6 // slack, "storage that is as large as it will be was moved"


def read(model: PreTrainedModel, cache: RaggedCache, prefilled: Prefill, rows: int, steps: int) -> list[int]:
    """How large the cache is after every token."""
    stored = []
    with ragged_attention(model), torch.no_grad():
        for i in range(steps):
            where = torch.tensor([[prefilled.seq_len + i]])
            model(input_ids=torch.full((rows, 1), 5), past_key_values=cache, position_ids=where)
            stored.append(cache.storage_bytes)
    return stored


@pytest.mark.parametrize(("policy", "beside"), [(EvictOldest(LIMIT), 0), (H2OEviction(LIMIT), 1)])
def test_heads_that_stay_at_their_size_take_no_more(
    make_model: MakeModel, prompt: Prompt, policy: Policy, beside: int
) -> None:
    """H2OEviction's need a slot for the token that is being read, and notes."""
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN), observers=getattr(policy, "observers", ()))
    newest = torch.arange(SEQ_LEN - LIMIT, SEQ_LEN)
    selection = Selection.from_heads([[newest, newest]] * 3, SEQ_LEN)
    cache = RaggedCache.of(prefilled, [selection] * 2, [policy] * 2)
    sizes = read(model, cache, prefilled, 2, 100)
    stores: list[Any] = [layer.parts[0][1] for layer in cache.ragged_layers]
    notes = sum(w.segment_bytes() * len(w.segments) for store in stores for w in store.evictors)
    assert set(sizes) == {12 * (LIMIT + beside) * prefilled.token_bytes + notes}
    assert [held.slack_bytes for held in cache.held()] == [6 * beside * prefilled.token_bytes] * 2


def test_beside_rows_that_grow_they_have_no_slack_either(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    newest = torch.arange(SEQ_LEN - LIMIT, SEQ_LEN)
    few = Selection.from_heads([[newest, newest]] * 3, SEQ_LEN)
    cache = RaggedCache.of(prefilled, [few, Selection.full(3, 2, SEQ_LEN)], [EvictOldest(LIMIT), Grow()], slack=4)
    read(model, cache, prefilled, 2, 50)
    stores: list[Any] = [layer.parts[0][1] for layer in cache.ragged_layers]
    for store in (part.store for part in stores):
        assert store.lengths.tolist() == [LIMIT] * 2 + [SEQ_LEN + 50] * 2
        assert store.capacities.tolist()[:2] == [LIMIT] * 2
        assert min(store.capacities.tolist()[2:]) >= SEQ_LEN + 50


def test_a_prompt_far_below_the_limit_is_not_given_all_of_it_at_once(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(5))
    cache = RaggedCache.of(prefilled, [Selection.full(3, 2, 5)], [EvictOldest(20)], slack=4)
    sizes = [size // (6 * prefilled.token_bytes) for size in read(model, cache, prefilled, 1, 40)]
    assert sizes[0] == 9 and sizes == sorted(sizes) and set(sizes[15:]) == {20}
