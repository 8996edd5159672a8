"""RazorAttention's compensation token is dense attention in which the mean of the dropped tokens counts for all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from cokv.cache.attention import buckets
from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldestWhereEvicted
from cokv.cache.prefill import PrefillLayer, prefill
from cokv.cache.storage.plain import PlainRows
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
GROUP_SIZE, DIM = 3, 4


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(2, 30),
    share=st.floats(0, 1),
    sinks=st.integers(0, 5),
    steps=st.integers(1, 20),
    seed=st.integers(0, 999),
)
def test_one_slot_counts_for_all_that_is_gone(tokens: int, share: float, sinks: int, steps: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    total = tokens + steps
    keys, values = (torch.randn(2, total, DIM, generator=draw) for _ in range(2))
    queries = torch.randn(2 * GROUP_SIZE, steps, DIM, generator=draw)
    layer = PrefillLayer(0, keys[:, :tokens], values[:, :tokens], queries, 0.5)
    some = (torch.rand(tokens, generator=draw) < share).nonzero()[:, 0]
    kept = [some, torch.arange(tokens)]
    rows = PlainRows([layer], [kept], [Compensate(sinks)], 3, buckets.attend)
    (held,) = rows.held()
    assert held.slots == sum(map(len, kept)), "the slot is the head's own"
    lost = 0 < len(some) < tokens
    kept_of_head = some.tolist()
    if lost:
        kept_of_head.pop(min(sinks, len(kept_of_head) - 1))
    size = len(kept_of_head)
    for step in range(steps):
        now = slice(tokens + step, tokens + step + 1)
        got = rows.attend(queries[None, :, step : step + 1], keys[None, :, now], values[None, :, now], 0.5)
        if lost:
            if len(kept_of_head) >= max(size, 1):
                kept_of_head.pop(min(sinks, max(size, 1) - 1))
            kept_of_head.append(tokens + step)
        for head in range(2):
            here = kept_of_head if head == 0 and lost else [*kept[head].tolist(), *range(tokens, tokens + step + 1)]
            gone = sorted(set(range(tokens + step + 1)) - set(here)) if head == 0 and lost else []
            k, v = (part[head].double().numpy() for part in (keys, values))
            for q_head in range(head * GROUP_SIZE, (head + 1) * GROUP_SIZE):
                query = queries[q_head, step].double().numpy()
                weights = [np.exp(k[j] @ query * 0.5) for j in here]
                parts = [v[j] for j in here]
                if gone:
                    weights.append(len(gone) * np.exp(k[gone].mean(0) @ query * 0.5))
                    parts.append(v[gone].mean(0))
                expected = sum(w * p for w, p in zip(weights, parts, strict=True)) / sum(weights)
                np.testing.assert_allclose(got[0, q_head, 0].numpy(), expected, rtol=0, atol=2e-5)
    after = len(kept_of_head) + 1 if lost else len(some) + steps
    assert rows.held()[0].slots == after + tokens + steps


def test_heads_that_lost_tokens_stay_at_their_size(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(40)
    prefilled = prefill(model, ids)
    ends = torch.cat([torch.arange(4), torch.arange(32, 40)])
    selection = Selection.from_heads([[ends, torch.arange(40)]] * 3, 40)
    rows = [Row(selection, policy) for policy in (Compensate(4), EvictOldestWhereEvicted(None, 4))] + [Row(selection)]
    razor, duo, grown = decode(model, prefilled, rows, Stop(16))
    assert razor.kept_tokens == duo.kept_tokens == grown.kept_tokens == 3 * 52
    assert duo.kept_bytes == 3 * 52 * prefilled.token_bytes
    assert razor.kept_bytes == duo.kept_bytes + 3 * 4, "the count of what the token stands for"
    assert len({tuple(answer.tokens) for answer in (razor, duo, grown)}) == 3, "three rules that answer alike"


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(CokvError, match="0 or more"):
        Compensate(-1)
