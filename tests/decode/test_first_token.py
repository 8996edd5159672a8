"""The last prompt token run again on the compressed cache: every method holds exactly its total, then and later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldest, EvictOldestWhereEvicted, Grow
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.decode.head_mask import HeadMask
from cokv.decode.rerun import holding_last
from cokv.decode.session import DecodeSession, start_session
from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.method import Method
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.registry import METHODS, get_method
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import HeadScores, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN, STEPS = 75, 5
# Budget: the methods' own settings. A whole head is more than the smaller one pays for.
BUDGETS = {
    16: {"num_sinks": 4, "window_size": 8, "page": 4, "residual": 8, "group": 4},
    40: {"num_sinks": 4, "local": 8, "retrieval_share": 0.25, "window_size": 8, "page": 8, "residual": 8, "group": 4},
}
GROW = (Grow, Quantize, PruneChannels)
GROW_WHERE_WHOLE = (EvictOldestWhereEvicted, Compensate, FastGenEviction)


class Tokenizer:
    all_special_ids = (1,)

    def decode(self, ids: list[int]) -> str:
        return "," if ids[0] % 9 == 0 else "word"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1 + ord(c) % 90 for c in text]}


def methods(kv_budget: int) -> list[Method]:
    own = {**BUDGETS[kv_budget], "least_threshold": 0}
    listed = []
    for name in METHODS:
        if kv_budget == 16 and name in ("razorattention", "duoattention"):
            continue
        known = METHODS[name].parameters
        listed.append(get_method(name, **{key: value for key, value in own.items() if key in known}))
    return listed


def profile_for(name: str, prefilled: Prefill) -> Any:
    shape = (prefilled.shape.num_layers, prefilled.shape.num_kv_heads)
    rng = np.random.default_rng(0)
    curves = keep_ratios(rng.exponential(size=(*shape, 50)))
    return RatioCurves(curves) if name == "lukv" else HeadScores(rng.random(shape))


def rows_of(prefilled: Prefill, chosen: list[Method], kv_budget: int) -> list[Row]:
    heads = (prefilled.shape.num_layers, prefilled.shape.num_kv_heads)
    rows = []
    for method in chosen:
        profile = profile_for(method.name, prefilled)
        policy = method.bound_policy(kv_budget, prefilled.seq_len, *heads, profile)
        rows.append(Row(method.select(prefilled, kv_budget, profile), policy))
    return rows


def slots_now(reader: DecodeSession) -> list[int]:
    assert isinstance(reader.cache, RaggedCache)
    return [held.slots for held in reader.cache.held()]


def expected(method: Method, row: Row, read: int) -> int:
    """Slots after `read` tokens that are no part of the compressed prompt."""
    assert isinstance(row.selection, Selection)
    counts = row.selection.counts
    if isinstance(method.policy, GROW):
        return int(counts.sum()) + read * counts.size
    whole = (counts == row.selection.seq_len).sum() if isinstance(method.policy, GROW_WHERE_WHOLE) else 0
    return int(counts.sum() + read * whole)


@pytest.mark.parametrize("kv_budget", BUDGETS)
@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("arrives", ["compressed", "suffix"])
def test_every_method_holds_exactly_the_total(
    make_model: MakeModel, prompt: Prompt, heads: str, kv_budget: int, arrives: str
) -> None:
    """After the first token, which the last prompt token gives, or before a suffix; and with every token after it."""
    model, ids = make_model("llama", heads), prompt(SEQ_LEN)
    chosen = methods(kv_budget)
    observers = {o: None for method in chosen for o in method.observers}
    prefilled = prefill(model, ids, SEQ_LEN, observers, Tokenizer())
    rows = rows_of(prefilled, chosen, kv_budget)
    total = kv_budget * prefilled.shape.num_layers * prefilled.shape.num_kv_heads
    suffix = prompt(STEPS, seed=1) if arrives == "suffix" else None
    read = 0 if suffix is None else STEPS
    begun = start_session(model, prefilled, rows, "ragged", STEPS, suffix, "compressed")
    with ragged_attention(model), torch.no_grad(), begun as (reader, _, _):
        before = [held.slots for held in reader.held]
        steps = [(read, slots_now(reader))]
        for token in prompt(STEPS, seed=2):
            reader.read(token.expand(len(rows), 1))
            read += 1
            steps.append((read, slots_now(reader)))
    decoded = decode(model, prefilled, rows, Stop(STEPS), suffix=suffix, first_token="compressed")
    assert len(chosen) == len(METHODS) - 2 * (kv_budget == 16) > 20
    for place, (method, row) in enumerate(zip(chosen, rows, strict=True)):
        if isinstance(method.policy, Recall):
            assert all(slots[place] <= total for _, slots in steps), method.name
            continue
        if method.scorer is not None:
            assert row.selection.total == total, method.name
        assert before[place] == row.selection.total == decoded[place].kept_tokens, method.name
        for count, slots in steps:
            assert slots[place] == expected(method, row, count), (method.name, count)


def drawn(counts: list[int], seq_len: int, seed: int) -> Selection:
    generator = torch.Generator().manual_seed(seed)
    heads = [torch.randperm(seq_len, generator=generator)[:n].sort().values for n in counts]
    return Selection.from_heads([heads[i : i + 2] for i in range(0, len(heads), 2)], seq_len)


@settings(deadline=None, max_examples=80)
@given(
    seq_len=st.integers(2, 12),
    share=st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda s: len(s) % 2 == 0),
    seed=st.integers(0, 99),
)
def test_the_last_token_has_a_slot_in_every_head(seq_len: int, share: list[float], seed: int) -> None:
    selection = drawn([round(part * seq_len) for part in share], seq_len, seed)
    (now,) = holding_last([Row(selection)])
    assert isinstance(now, Selection)
    heads = selection.counts.size
    assert now.mask()[..., -1].all()
    assert now.total == max(selection.total, heads)
    empty = (selection.counts == 0).any()
    for layer, head in np.ndindex(selection.counts.shape):
        had, has = (set(s.head(layer, head).tolist()) for s in (selection, now))
        if not empty:
            kept = had if seq_len - 1 in had else had - {max(had)}
            assert has == kept | {seq_len - 1}, "the newest other token makes room, and nothing else changes"
        assert has - {seq_len - 1} <= had
        assert len(has) <= max(len(had), 1)
    if not empty:
        mask = selection.mask()
        which = np.arange(heads).reshape(selection.counts.shape)
        (choice,) = holding_last([Row(HeadMask(mask.flatten(0, 1), which))])
        assert isinstance(choice, HeadMask) and choice.selection(selection.num_kv_heads) == now


def test_empty_heads_take_slots_of_the_largest() -> None:
    heads = [[torch.tensor([]), torch.arange(6)], [torch.tensor([1, 2, 9]), torch.tensor([])]]
    selection = Selection.from_heads([[h.long() for h in layer] for layer in heads], 10)
    (now,) = holding_last([Row(selection)])
    assert isinstance(now, Selection)
    assert [[now.head(i, h).tolist() for h in range(2)] for i in range(2)] == [
        [[9], [0, 1, 2, 9]],
        [[1, 2, 9], [9]],
    ]


def test_streaming_heads_answer_as_if_the_last_token_were_the_first_new_one(
    make_model: MakeModel, prompt: Prompt
) -> None:
    """A head of nine slots then has one free, so that no token goes for the last."""
    model, ids = make_model(), prompt(40)
    ends = torch.cat([torch.arange(2), torch.arange(33, 40)])
    row = Row(Selection.from_heads([[ends, ends]] * 3, 40), EvictOldestWhereEvicted(None, 2))
    (again,) = decode(model, prefill(model, ids), [row], Stop(12), first_token="compressed")
    before = Row(Selection.from_heads([[ends[:-1], ends[:-1]]] * 3, 39), EvictOldest(9, 2))
    (new,) = decode(model, prefill(model, ids[:-1]), [before], Stop(12), suffix=ids[-1:])
    assert again.tokens == new.tokens
    assert again.kept_tokens == 6 * 9


def test_a_compensation_token_stands_for_all_that_is_gone(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(40)
    prefilled, ends = prefill(model, ids), torch.cat([torch.arange(2), torch.arange(33, 40)])
    row = Row(Selection.from_heads([[ends, torch.arange(40)]] * 3, 40), Compensate(2))
    with (
        ragged_attention(model),
        torch.no_grad(),
        start_session(model, prefilled, [row], "ragged", 9, None, "compressed") as (reader, _, _),
    ):
        assert isinstance(reader.cache, RaggedCache)
        for new, token in enumerate([None, *prompt(9, seed=2)]):
            if token is not None:
                reader.read(token.view(1, 1))
            for layer in reader.cache.ragged_layers:
                store: Any = layer.parts[0][1]
                (evictor,) = store.evictors
                assert store.store.lengths.tolist() == [8, 40 + new], "of nine slots one stands for the others"
                assert evictor.counts.tolist() == [40 + new - 8]
