"""ArkVale: the pages that come back are those of loops over keys; with room for all of them it is the full cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from cokv.cache.attention import buckets, choose
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.attention.backend import Attend
from cokv.cache.cache import RaggedCache
from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import Prefill, PrefillLayer, prefill
from cokv.cache.storage.recalled import RecalledRows
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
HEADS, GROUP_SIZE, DIM = 2, 3, 4


def ranked(queries: np.ndarray, pages: list[np.ndarray]) -> list[int]:
    """queries [group_size, head_dim]; keys of each complete page -> their numbers, those that must stay first."""
    scores = []
    for keys in pages:
        score = 0.0
        for query in queries:
            for d, q in enumerate(query):
                score += max(q * max(key[d] for key in keys), q * min(key[d] for key in keys))
        scores.append(score)
    stay = (0, len(pages) - 1)
    return sorted(range(len(pages)), key=lambda i: (i not in stay, -scores[i], i))


@settings(deadline=None, max_examples=50)
@given(
    tokens=st.integers(0, 60),
    steps=st.integers(1, 25),
    page=st.integers(1, 6),
    spare=st.integers(0, 20),
    seed=st.integers(0, 999),
    ties=st.booleans(),
    attend=st.sampled_from([choose.attend, buckets.attend]),
)
def test_pages_and_attention_are_those_of_loops(
    tokens: int, steps: int, page: int, spare: int, seed: int, ties: bool, attend: Attend
) -> None:
    draw = torch.Generator().manual_seed(seed)
    total, policy = tokens + steps, Recall(4 * page + spare, page)
    keys, values = (torch.randn(HEADS, total, DIM, generator=draw) for _ in range(2))
    keys = keys.round() if ties else keys
    queries = torch.randn(HEADS * GROUP_SIZE, steps, DIM, generator=draw).round()
    layer = PrefillLayer(0, keys[:, :tokens], values[:, :tokens], queries, 0.5)
    head_tokens = [torch.arange(tokens), torch.arange(tokens // 2, tokens)]
    rows = RecalledRows([layer], [head_tokens], [policy], 4, attend)
    for step in range(steps):
        now = slice(tokens + step, tokens + step + 1)
        got = rows.attend(queries[None, :, step : step + 1], keys[None, :, now], values[None, :, now], 0.5)
        for head, kept in enumerate(head_tokens):
            held = [*kept.tolist(), *range(tokens, tokens + step + 1)]
            complete = (len(held) - 1) // page  # a page is put away when the next begins
            cut = [held[i * page : (i + 1) * page] for i in range(complete)]
            head_queries = queries[head * GROUP_SIZE : (head + 1) * GROUP_SIZE, step]
            order = ranked(head_queries.double().numpy(), [keys[head, p].double().numpy() for p in cut])
            newest, attended = held[complete * page :], []
            for number in order:  # the last of them cut to its newest tokens
                room = policy.limit - len(newest) - len(attended)
                attended += cut[number][-room:] if room else []
            whole = (policy.limit - len(newest)) // page
            assert {n for n in rows.numbers[head, :whole].tolist() if n >= 0} == set(order[:whole])
            attended += newest
            assert len(attended) == min(len(held), policy.limit), "exactly the budget is spent"
            out = torch.softmax(head_queries @ keys[head, attended].T * 0.5, -1) @ values[head, attended]
            torch.testing.assert_close(got[0, head * GROUP_SIZE : (head + 1) * GROUP_SIZE, 0], out, rtol=0, atol=1e-5)


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("length", [1, 8, 45])
def test_room_for_all_pages_is_the_full_cache(make_model: MakeModel, prompt: Prompt, heads: str, length: int) -> None:
    model = make_model("llama", heads, num_hidden_layers=2)
    prefilled = prefill(model, prompt(length))
    full = Selection.full(2, prefilled.shape.num_kv_heads, length)
    rows = [Row(full, Recall(80, 8)), Row(full), Row(full, Recall(32, 8))]
    answers = decode(model, prefilled, rows, Stop(24))
    assert answers[0].tokens == answers[1].tokens
    if length == 45:
        assert answers[2].tokens != answers[1].tokens, "pages that are never missed test nothing"


def logits_of(
    model: PreTrainedModel, prefilled: Prefill, policy: Recall | Grow, after: torch.Tensor, steps: list[int]
) -> torch.Tensor:
    """At the tokens after the prompt, which are read in parts of these sizes."""
    shape = prefilled.shape
    cache = RaggedCache.of(
        prefilled, [Selection.full(shape.num_layers, shape.num_kv_heads, prefilled.seq_len)], [policy]
    )
    step_logits, position = [], prefilled.seq_len
    with ragged_attention(model), torch.no_grad():
        for ids in after.split(steps):
            where = torch.arange(position, position + len(ids))[None]
            step_logits.append(model(input_ids=ids[None], past_key_values=cache, position_ids=where).logits[0])
            position += len(ids)
    return torch.cat(step_logits)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_room_for_all_pages_logits_are_those_of_the_full_cache(
    make_model: MakeModel, fresh_model: MakeModel, prompt: Prompt, family: str, dtype: torch.dtype
) -> None:
    """Up to the order of sums: pages and the newest page are attended apart."""
    model = fresh_model(family).to(dtype)
    prefilled, after = prefill(model, prompt(45)), prompt(30, seed=1)
    full, all_pages, few = (
        logits_of(model, prefilled, policy, after, [1] * 20 + [10]).float()
        for policy in (Grow(), Recall(80, 8), Recall(32, 8))
    )
    if dtype == torch.float32:
        torch.testing.assert_close(all_pages, full, rtol=0, atol=2e-5)
        assert (few - full).abs().max() > 0.1, "pages that are never missed test nothing"
    else:
        wide = fresh_model(family).to(dtype).float()  # the same weights
        truth = logits_of(wide, prefill(wide, prompt(45)), Grow(), after, [1] * 20 + [10])
        ours, theirs = ((got - truth).square().mean().sqrt() for got in (all_pages, full))
        assert ours <= 1.25 * theirs, "no further from float32 than the full cache in bfloat16"


def test_bytes_are_slots_digests_places_and_pages_apart(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(45))
    full = Selection.full(3, 2, 45)
    (small, large) = decode(model, prefilled, [Row(full, Recall(32, 8)), Row(full, Recall(64, 8))], Stop(2))
    digests = 6 * 5 * 2 * 16 * 4  # five complete pages per head
    assert small.kept_tokens == 6 * 32 and large.kept_tokens == 6 * 45
    assert small.kept_bytes == small.kept_tokens * prefilled.token_bytes + digests + 6 * 4 * 8
    assert large.kept_bytes == prefilled.full_bytes + digests + 6 * 8 * 8
    # In CPU memory there is room for one page more in every head.
    assert small.host_bytes == large.host_bytes == 6 * (40 + 8) * prefilled.token_bytes


@pytest.mark.parametrize("seq_len", [992, 1000, 1023])
def test_the_whole_budget_is_spent(seq_len: int) -> None:
    layer = layer_of(seq_len)
    rows = RecalledRows([layer], [[torch.arange(seq_len)] * HEADS], [Recall(128)], 4, choose.attend)
    assert [row.slots for row in rows.held()] == [HEADS * 128]
    spent = []
    rows.backend = lambda *args: spent.append(args[4].tolist()) or buckets.attend(*args)
    new = torch.zeros(1, HEADS, 1, DIM)
    for _ in range(70):
        rows.attend(torch.ones(1, HEADS * GROUP_SIZE, 1, DIM), new, new, 0.5)
    assert {
        sum(both) for one, other in zip(spent[::2], spent[1::2], strict=True) for both in zip(one, other, strict=True)
    } == {128}


def layer_of(tokens: int, seed: int = 0) -> PrefillLayer:
    draw = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(HEADS, tokens, DIM, generator=draw) for _ in range(2))
    return PrefillLayer(0, keys, values, torch.empty(HEADS * GROUP_SIZE, 0, DIM), 0.5)


def device_tensors(rows: RecalledRows) -> dict[str, torch.Tensor]:
    return {name: part for name, part in vars(rows).items() if isinstance(part, torch.Tensor)}


def test_what_is_reported_is_what_is_allocated() -> None:
    layer, rows_kept = layer_of(37), [[torch.arange(37), torch.arange(9)], [torch.arange(0), torch.arange(30)]]
    rows = RecalledRows([layer], rows_kept, [Recall(16, 4)] * 2, 4, choose.attend)
    page = 2 * 4 * DIM * 4
    assert len(rows.host.pool) == 9 + 2 + 0 + 7 + 4, "no padding to the longest, a page to come for each head"
    assert [row.host_bytes for row in rows.held()] == [(11 + 2) * page, (7 + 2) * page]
    for _ in range(30):
        new = torch.zeros(2, HEADS, 1, DIM)
        rows.attend(torch.ones(2, HEADS * GROUP_SIZE, 1, DIM), new, new, 0.5)
        held = rows.held()
        allocated = rows.host.pool.untyped_storage().nbytes()
        assert allocated - len(held) < sum(row.host_bytes for row in held) <= allocated
        assert rows.storage_bytes == sum(t.untyped_storage().nbytes() for t in device_tensors(rows).values())
        assert sum(row.bytes for row in held) <= rows.storage_bytes
    rows.select(torch.tensor([1, 1, 0]), copies=True)
    held = rows.held()
    assert allocated - len(held) < sum(row.host_bytes for row in held) <= allocated, "shared pages count once"


def test_rows_that_leave_move_no_storage_and_their_places_are_filled_again() -> None:
    layer = layer_of(40)
    rows = RecalledRows([layer], [[torch.arange(40)] * HEADS] * 4, [Recall(16, 4)] * 4, 4, choose.attend)

    def read(steps: int) -> None:
        count = len(rows.counts) // HEADS
        for _ in range(steps):
            new = torch.ones(count, HEADS, 1, DIM)
            rows.attend(torch.ones(count, HEADS * GROUP_SIZE, 1, DIM), new, new, 0.5)

    read(2)
    before = {name: part.data_ptr() for name, part in (*device_tensors(rows).items(), ("pool", rows.host.pool))}
    rows.select(torch.tensor([1, 3]), copies=False)
    for name in ("k", "v", "low", "high", "pool"):
        now = rows.host.pool if name == "pool" else device_tensors(rows)[name]
        assert now.data_ptr() == before[name], name
    read(4 * 10)  # ten pages of each head more, as many as were forgotten
    assert rows.host.pool.data_ptr() == before["pool"] and rows.counts.tolist() == [20] * 4
    everything = torch.cat([layer.keys, torch.ones(HEADS, 40, DIM)], 1)
    for segment in range(4):
        pages = rows.host.get(torch.full((20,), segment), torch.arange(20))
        assert torch.equal(pages[:, 0].flatten(0, 1), everything[segment % HEADS])
    read(4 * 4)
    assert len(rows.host.pool) == 88 * 5 // 4, "a quarter more than ten pages and one to come in each of eight heads"


def test_rows_leave_and_are_copied(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids, after = make_model(num_hidden_layers=2), prompt(45), prompt(20, seed=1)
    prefilled = prefill(model, ids)

    def read(cache: RaggedCache, tokens: torch.Tensor, rows: int, position: int) -> torch.Tensor:
        where = torch.arange(position, position + len(tokens))[None]
        with ragged_attention(model), torch.no_grad():
            return model(input_ids=tokens.expand(rows, -1), past_key_values=cache, position_ids=where).logits

    full = Selection.full(2, 2, 45)
    late = Selection.from_mask((torch.arange(45) > 4).expand(2, 2, -1))
    make = lambda: RaggedCache.of(  # noqa: E731
        prefilled, [full, late, late, full], [Recall(16, 4), Recall(16, 4), EvictOldest(48), Grow()]
    )
    expected, cache = read(make(), after, 4, 45), make()
    read(cache, after[:7], 4, 45)
    cache.reorder_cache(torch.tensor([1, 2, 1, 0, 3]))
    cache.keep_rows(torch.tensor([1, 2, 3, 4]))
    rest = read(cache, after[7:], 4, 52)
    torch.testing.assert_close(rest, expected[[2, 1, 0, 3], 7:], rtol=0, atol=1e-4)


def test_budgets_without_a_page_to_recall_are_refused() -> None:
    with pytest.raises(CokvError, match=r"64 slots per head in pages of 32; expected at least 128"):
        Recall(64)
    with pytest.raises(CokvError, match="pages of 0"):
        Recall(64, 0)
