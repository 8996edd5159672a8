"""KIVI: each head is off by half a step, what is stored has the bytes computed, and 16 bits is the full cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from cokv.cache.attention import buckets
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compression import SelectEachLayer
from cokv.cache.policies.growth import Grow
from cokv.cache.policies.quantize import Quantize, bits_at_random, bits_by_score
from cokv.cache.prefill import PrefillLayer, prefill
from cokv.cache.storage.quantized import QuantizedRows
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.methods.registry import get_method
from cokv.types import CokvError, HeadScores, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
HEADS, GROUP_SIZE, DIM = 2, 3, 8
KEPT_AS_IT_IS = Quantize(16, 8, 8)


def steps(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Step of each group, the last axis being a group."""
    return (numbers.max(-1) - numbers.min(-1)) / (2**bits - 1)


def layer_of(tokens: int, seed: int = 0) -> PrefillLayer:
    draw = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(HEADS, tokens, DIM, generator=draw) for _ in range(2))
    keys[..., 0] *= 20  # a channel unlike the others
    return PrefillLayer(0, keys, values, torch.empty(HEADS * GROUP_SIZE, 0, DIM), DIM**-0.5)


def store(layer: PrefillLayer, kept: list[torch.Tensor], policy: Quantize) -> QuantizedRows:
    return QuantizedRows([layer], [kept], [policy], 5, buckets.attend)


def packed_of(rows: QuantizedRows, bits: int) -> list[torch.Tensor]:
    pool = rows.pools[bits]
    return [t for part in (pool.keys, pool.values) for t in (part.codes, part.low, part.step)]


def contents(rows: QuantizedRows, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V of one segment as attention sees them, oldest first."""
    parts = []
    for pool in rows.pools.values():
        of_head = (pool.owner == head).repeat_interleave(rows.policy.group)
        parts.append([part[of_head] for part in pool.unpacked()])
    start, length = int(rows.residual.starts[head]), int(rows.residual.lengths[head])
    parts.append([part[start : start + length] for part in (rows.residual.k, rows.residual.v)])
    return torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts])


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize(("tokens", "group", "residual"), [(50, 8, 16), (50, 4, 3), (7, 8, 0), (64, 8, 0), (33, 5, 8)])
def test_each_head_is_off_by_half_a_step_and_has_the_bytes_computed(
    bits: int, tokens: int, group: int, residual: int
) -> None:
    layer, policy = layer_of(tokens), Quantize(bits, group, residual)
    kept = [torch.arange(tokens), torch.arange(1, tokens, 2)]
    rows = store(layer, kept, policy)
    total = 0
    for head, positions in enumerate(kept):
        n = len(positions)
        packed = 0 if bits == 16 else policy.groups(n) * group
        assert bits == 16 or n - packed <= max(residual, group - 1), "the residual holds no more"
        keys, values = (part[head, positions].double().numpy() for part in (layer.keys, layer.values))
        read_back = [part.double().numpy() for part in contents(rows, head)]
        np.testing.assert_array_equal(read_back[0][packed:], keys[packed:])
        np.testing.assert_array_equal(read_back[1][packed:], values[packed:])
        for g in range(packed // group):
            span = slice(g * group, (g + 1) * group)
            half = steps(keys[span].T, bits) / 2  # per channel
            assert (np.abs(read_back[0][span] - keys[span]) <= half * 1.001 + 1e-6).all()
        width = policy.channels(DIM)
        for t in range(packed):
            half = steps(values[t].reshape(-1, width), bits).repeat(width) / 2
            assert (np.abs(read_back[1][t] - values[t]) <= half * 1.001 + 1e-6).all()
        per_group = DIM * (-(-group * bits // 8) + 8) + group * (DIM // width) * (-(-width * bits // 8) + 8)
        bytes_ = packed // group * (per_group + 8) + (n - packed) * 2 * DIM * 4
        assert policy.head_bytes(n, bits, DIM, 4) == bytes_
        total += bytes_
    (held,) = rows.held()
    assert held.bytes == total and held.slots == sum(map(len, kept))
    beside = HEADS * (3 + len(rows.pools)) * 8  # bits, start and length of a segment, and its groups in each pool
    assert rows.storage_bytes == total + 2 * 5 * 2 * DIM * 4 + beside, "what is allocated is that and the slack"
    parts = [rows.bits, *(getattr(rows.residual, name) for name in ("k", "v", "starts", "lengths"))]
    for pool in rows.pools.values():
        parts += [pool.places, pool.counts, *packed_of(rows, pool.bits)]
    assert rows.storage_bytes == sum(part.untyped_storage().nbytes() for part in parts)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_attention_is_within_the_stated_bound(bits: int) -> None:
    tokens, layer, policy = 48, layer_of(48, seed=1), Quantize(bits, 8, 7)
    layer.keys[..., 0] /= 20
    rows = store(layer, [torch.arange(tokens)] * HEADS, policy)
    draw = torch.Generator().manual_seed(2)
    queries = torch.randn(1, HEADS * GROUP_SIZE, 1, DIM, generator=draw)
    new = torch.randn(2, 1, HEADS, 1, DIM, generator=draw)
    got = rows.attend(queries, new[0], new[1], layer.scaling)[0, :, 0].double().numpy()
    packed = policy.groups(tokens) * 8
    used = []
    for q_head in range(HEADS * GROUP_SIZE):
        head = q_head // GROUP_SIZE
        keys, values = (
            torch.cat([part[head], one[0, head]]).double().numpy()
            for part, one in ((layer.keys, new[0]), (layer.values, new[1]))
        )
        query = queries[0, q_head, 0].double().numpy()
        shares = np.exp(keys @ query * layer.scaling)
        expected = shares / shares.sum() @ values
        step = np.stack([steps(keys[g : g + 8].T, bits) for g in range(0, packed, 8)])
        off = layer.scaling * (np.abs(query) * step / 2).sum(-1).max()
        bound = steps(values[:packed], bits).max() / 2 + (np.exp(2 * off) - 1) * np.abs(values).max()
        used.append((np.abs(got[q_head] - expected) / bound).max())
    assert 0 < max(used) <= 1, used


@settings(deadline=None, max_examples=25)
@given(first=st.integers(0, 30), more=st.integers(1, 30), group=st.integers(1, 6), residual=st.integers(0, 12))
def test_tokens_read_one_by_one_are_packed_as_if_they_had_been_there(
    first: int, more: int, group: int, residual: int
) -> None:
    layer, policy = layer_of(first + more), Quantize(((2, 4),), group, residual)
    begun = store(layer, [torch.arange(first)] * HEADS, policy)
    queries = torch.ones(1, HEADS, more, DIM)
    begun.attend(queries, layer.keys[None, :, first:], layer.values[None, :, first:], 1.0)
    at_once = store(layer, [torch.arange(first + more)] * HEADS, policy)
    assert begun.held() == at_once.held()
    for head in range(HEADS):
        for one, other in zip(contents(begun, head), contents(at_once, head), strict=True):
            assert torch.equal(one, other)


def test_rows_that_leave_move_no_storage_and_their_places_are_filled_again() -> None:
    layer, policy, new = layer_of(40), Quantize(((2, 4),), 4, 0), torch.ones(1, 1, HEADS, 4, DIM)
    rows = QuantizedRows([layer], [[torch.arange(40)] * HEADS] * 6, [policy] * 6, 5, buckets.attend)
    before = [t.data_ptr() for bits in (2, 4) for t in packed_of(rows, bits)]
    whole = [contents(rows, segment) for segment in range(6 * HEADS)]
    rows.select(torch.tensor([1, 4]), copies=False)
    assert [t.data_ptr() for bits in (2, 4) for t in packed_of(rows, bits)] == before
    assert [len(packed_of(rows, bits)[0]) for bits in (2, 4)] == [60, 60], "ten groups of each of six rows"
    for segment, old in enumerate((2, 3, 8, 9)):
        for one, other in zip(contents(rows, segment), whole[old], strict=True):
            assert torch.equal(one, other)
    queries = torch.ones(2, HEADS * GROUP_SIZE, 4, DIM)
    for _ in range(20):  # twenty groups of each segment: forty for the two rows, as many as the others left
        rows.attend(queries, *new.expand(2, 2, -1, -1, -1), 1.0)
    assert [t.data_ptr() for bits in (2, 4) for t in packed_of(rows, bits)] == before
    for segment, old in enumerate((2, 3, 8, 9)):
        for one, other in zip(contents(rows, segment), whole[old], strict=True):
            assert torch.equal(one[:40], other) and torch.equal(one[40:], torch.ones(80, DIM))
    rows.attend(queries, *new.expand(2, 2, -1, -1, -1), 1.0)
    assert [len(packed_of(rows, bits)[0]) for bits in (2, 4)] == [75, 75], "a quarter more"
    for segment, old in enumerate((2, 3, 8, 9)):
        assert torch.equal(contents(rows, segment)[0][:40], whole[old][0])


def read_on(model: PreTrainedModel, policy: Quantize | Grow, ids: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Logits [len(after), vocab_size] at the tokens after the prompt, read one by one."""
    prefilled = prefill(model, ids)
    full = Selection.full(prefilled.shape.num_layers, prefilled.shape.num_kv_heads, len(ids))
    cache, read_back = RaggedCache.of(prefilled, [full], [policy]), []
    with ragged_attention(model), torch.no_grad():
        for position, token in enumerate(after.tolist(), len(ids)):
            where = torch.tensor([[position]])
            step = model(input_ids=torch.tensor([[token]]), past_key_values=cache, position_ids=where)
            read_back.append(step.logits[0])
    return torch.cat(read_back)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_logits_of_sixteen_bits_are_those_of_the_full_cache(
    fresh_model: MakeModel, prompt: Prompt, family: str
) -> None:
    """Bit by bit in float32; in bfloat16 no further from float32 than the full cache."""
    model, ids, after = fresh_model(family), prompt(45), prompt(30, seed=1)
    full, sixteen, eight = (read_on(model, policy, ids, after) for policy in (Grow(), KEPT_AS_IT_IS, Quantize(8, 8, 8)))
    assert torch.equal(sixteen, full) and not torch.equal(eight, full)
    half = model.to(torch.bfloat16)
    theirs, ours = (read_on(half, policy, ids, after).float() for policy in (Grow(), KEPT_AS_IT_IS))
    truth = read_on(half.float(), Grow(), ids, after)  # the weights that bfloat16 has
    off = [(got - truth).square().mean().sqrt() for got in (ours, theirs)]
    assert 0 < off[0] <= 1.25 * off[1]
    assert (ours - theirs).abs().max() < 0.1 * theirs.abs().max()


def test_sixteen_bits_is_the_full_cache_and_fewer_compose_with_any_selection(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor]
) -> None:
    model, ids = make_model(), prompt(60)
    prefilled = prefill(model, ids)
    full, some = Selection.full(3, 2, 60), Selection.from_mask(uneven_mask(3, 2, 60))
    by_head = bits_by_score(HeadScores(np.arange(6.0).reshape(3, 2)), 6)
    policies = [
        Quantize(16, 8, 8),
        Grow(),
        Quantize(8, 8, 8),
        Quantize(8, 8, 8),
        Quantize(2, 8, 16),
        Quantize(by_head, 8, 8),
    ]
    kept = [full, full, full, some, some, full]
    rows = [Row(selection, policy) for selection, policy in zip(kept, policies, strict=True)]
    answers = decode(model, prefilled, rows, Stop(24))
    assert answers[0].tokens == answers[1].tokens and answers[0].kept_bytes == prefilled.full_bytes
    assert answers[4].tokens != answers[0].tokens, "two bits that change nothing test nothing"
    for answer, selection, policy in zip(answers, kept, policies, strict=True):
        if isinstance(policy, Quantize):
            bits = np.full((3, 2), policy.bits) if isinstance(policy.bits, int) else np.array(policy.bits)
            expected = sum(
                policy.head_bytes(int(n), int(b), 16, 4) for n, b in zip(selection.counts.flat, bits.flat, strict=True)
            )
            assert answer.kept_bytes == expected and answer.kept_tokens == selection.total
    assert answers[5].kept_bytes < answers[0].kept_bytes * 0.5


def test_the_row_with_snapkv_selects_as_snapkv_and_packs_what_is_older_than_the_window(
    make_model: MakeModel, prompt: Prompt
) -> None:
    model, method = make_model(), get_method("snapkv_kivi4")
    prefilled = prefill(model, prompt(200), method.window_size)
    selection = method.select(prefilled, 96)
    assert selection == get_method("snapkv").select(prefilled, 96) and selection.total == 6 * 96
    policy = method.bound_policy(96, 200, 3, 2)
    assert policy == Quantize(4, 32, 32)
    alone = decode(model, prefilled, [Row(selection, policy)], Stop(4))[0]
    assert alone.kept_tokens == 6 * 96 and alone.kept_bytes == 6 * Quantize(4, 32, 32).head_bytes(96, 4, 16, 4)
    assert alone.kept_bytes < 0.6 * selection.total * prefilled.token_bytes


def test_rows_leave_and_are_copied(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids, after = make_model(num_hidden_layers=2), prompt(40), prompt(20, seed=1)
    prefilled = prefill(model, ids)
    policies = [Quantize(bits, 4, 6) for bits in (2, 8, 4)]

    def read(cache: RaggedCache, tokens: torch.Tensor, rows: int, position: int) -> torch.Tensor:
        where = torch.arange(position, position + len(tokens))[None]
        with ragged_attention(model), torch.no_grad():
            return model(input_ids=tokens.expand(rows, -1), past_key_values=cache, position_ids=where).logits

    cache = RaggedCache.of(prefilled, [Selection.full(2, 2, 40)] * 3, policies)
    expected = read(cache, after, 3, 40)
    cache = RaggedCache.of(prefilled, [Selection.full(2, 2, 40)] * 3, policies)
    read(cache, after[:11], 3, 40)
    cache.reorder_cache(torch.tensor([2, 2, 0]))
    cache.keep_rows(torch.tensor([1, 2]))
    rest = read(cache, after[11:], 2, 51)
    torch.testing.assert_close(rest, expected[[2, 0], 11:], rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(layers=st.integers(1, 5), heads=st.integers(1, 4), average=st.floats(2, 8), seed=st.integers(0, 99))
def test_bits_follow_scores_and_meet_the_average(layers: int, heads: int, average: float, seed: int) -> None:
    scores = np.random.default_rng(seed).random((layers, heads))
    bits, drawn = (np.array(b) for b in (bits_by_score(scores, average), bits_at_random(layers, heads, average, seed)))
    assert average - 4 / bits.size < bits.mean() <= average + 1e-9
    assert sorted(bits.flat) == sorted(drawn.flat), "a random split has the same widths"
    wide, narrow = scores[bits == bits.max()], scores[bits < bits.max()]
    assert narrow.size == 0 or wide.min() >= narrow.max()


def test_settings_that_cannot_be_are_refused(make_model: MakeModel, prompt: Prompt) -> None:
    for bits in (3, 0, ((2, 5),)):
        with pytest.raises(CokvError, match="expected 2, 4, 8, or 16"):
            Quantize(bits)
    with pytest.raises(CokvError, match="groups of 0 tokens"):
        Quantize(2, 0)
    with pytest.raises(CokvError, match="the widths there are"):
        bits_by_score(np.ones((2, 2)), 1.5)
    prefilled = prefill(make_model(), prompt(9))
    for bits, what in ((((2, 2),) * 2, "2 layers"), (((2, 2),) * 4, "4 layers"), (((2, 2, 2),) * 3, "3 KV heads")):
        with pytest.raises(CokvError, match=rf"bits are given for {what}, the model has \d; give bits for this model"):
            RaggedCache.of(prefilled, [Selection.full(3, 2, 9)], [Quantize(bits)])
    model = make_model()
    with ragged_attention(model), torch.no_grad(), pytest.raises(CokvError, match="4 layers, the model has 3"):
        after = SelectEachLayer(after=Quantize(((2, 2),) * 4))
        model(prompt(9)[None], past_key_values=RaggedCache(model.config, after))
