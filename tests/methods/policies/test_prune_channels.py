"""ThinK: the channels are those that a loop finds, attention is that of zeroed keys, and the bytes are saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from cokv.cache.attention import buckets, reference
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.policies.growth import EvictOldestWhereEvicted, Grow
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.prefill import Prefill, PrefillLayer, prefill
from cokv.cache.storage.pruned import PrunedRows
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.decode.rerun import shortened, without_last
from cokv.methods.registry import get_method
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


# Written out with loops


def kept_channels(layer: PrefillLayer, head: int, positions: list[int], policy: PruneChannels) -> list[int]:
    """Of one KV head: the Frobenius norm of each channel's outer product, the lowest share gone."""
    keys, new_queries = (part.double().numpy() for part in (layer.keys, layer.window_queries))
    group = new_queries.shape[0] // keys.shape[0]
    head_dim, seq_len = keys.shape[2], keys.shape[1]
    last = new_queries[head * group : (head + 1) * group, -min(policy.window_size, seq_len) :]
    norms = []
    for i in range(head_dim):
        product = np.outer(last[:, :, i].reshape(-1), keys[head, positions, i])
        norms.append(np.sqrt((product**2).sum()))
    worst_first = sorted(range(head_dim), key=lambda i: (norms[i], -i))
    return sorted(worst_first[int(head_dim * policy.pruned) :])


def zeroed(layer: PrefillLayer, kept: list[torch.Tensor], policy: PruneChannels) -> torch.Tensor:
    """The layer's keys as the policy leaves them."""
    keys = layer.keys.clone()
    for head, positions in enumerate(kept):
        order = positions.tolist()
        channels = kept_channels(layer, head, order, policy)
        for position in order[: max(len(order) - policy.recent, 0)]:
            for i in set(range(keys.shape[2])) - set(channels):
                keys[head, position, i] = 0
    return keys


def layer_of(
    heads: int, group: int, seq_len: int, dim: int, window: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> PrefillLayer:
    draw = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.3, 2, dim)[torch.randperm(dim, generator=draw)]
    keys, values = (torch.randn(heads, seq_len, dim, generator=draw) for _ in range(2))
    new_queries = torch.randn(heads * group, min(window, seq_len), dim, generator=draw)
    return PrefillLayer(0, (keys * spread).to(dtype), values.to(dtype), new_queries.to(dtype), dim**-0.5)


def some_positions(heads: int, seq_len: int, seed: int) -> list[torch.Tensor]:
    """Of unlike sizes, none to all."""
    draw = np.random.default_rng(seed)
    return [torch.from_numpy(np.flatnonzero(draw.random(seq_len) < draw.random())) for _ in range(heads)]


@settings(deadline=None, max_examples=80)
@given(
    heads=st.integers(1, 4),
    group=st.integers(1, 3),
    seq_len=st.integers(1, 40),
    dim=st.sampled_from([2, 6, 10, 16, 22]),
    pruned=st.sampled_from([0.1, 0.25, 0.4, 0.5, 0.65, 0.9]),
    queries=st.integers(1, 12),
    recent=st.integers(0, 9),
    steps=st.sampled_from([[1], [1, 1], [3], [1, 4, 1]]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 999),
)
def test_attention_is_that_of_keys_with_zeros_in_the_lowest_channels(
    heads: int,
    group: int,
    seq_len: int,
    dim: int,
    pruned: float,
    queries: int,
    recent: int,
    steps: list[int],
    dtype: torch.dtype,
    seed: int,
) -> None:
    policy = PruneChannels(pruned, queries, recent)
    layer = layer_of(heads, group, seq_len, dim, policy.window_size, dtype, seed)
    kept = some_positions(heads, seq_len, seed)
    rows = PrunedRows([layer], [kept], [policy], 5, buckets.attend)
    old, values = zeroed(layer, kept, policy), layer.values
    draw = torch.Generator().manual_seed(seed + 1)
    expected_heads = [[old[h, p].double().numpy(), values[h, p].double().numpy()] for h, p in enumerate(kept)]
    for t in steps:
        new_queries = torch.randn(1, heads * group, t, dim, generator=draw).to(dtype)
        new = torch.randn(2, 1, heads, t, dim, generator=draw).to(dtype)
        got = rows.attend(new_queries, new[0], new[1], layer.scaling)
        assert got.dtype == dtype and got.shape == new_queries.shape
        for i in range(t):
            for h in range(heads):
                expected_heads[h] = [
                    np.vstack([expected_heads[h][part], new[part, 0, h, i].double().numpy()]) for part in range(2)
                ]
            for q_head in range(heads * group):
                k, v = expected_heads[q_head // group]
                logits = np.array([new_queries[0, q_head, i].double().numpy() @ one for one in k]) * layer.scaling
                shares = np.exp(logits - logits.max())
                expected = shares / shares.sum() @ v
                np.testing.assert_allclose(
                    got[0, q_head, i].double().numpy(), expected, rtol=0, atol=3 * TOLERANCE[dtype]
                )


@settings(deadline=None, max_examples=60)
@given(
    seq_len=st.integers(1, 60),
    dim=st.sampled_from([4, 10, 16, 257]),
    pruned=st.sampled_from([0.0, 0.05, 0.4, 0.5, 0.9]),
    recent=st.integers(0, 20),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 99),
)
def test_bytes_are_those_computed_and_those_allocated(
    seq_len: int, dim: int, pruned: float, recent: int, dtype: torch.dtype, seed: int
) -> None:
    policy, slack = PruneChannels(pruned, 4, recent), 7
    layer = layer_of(2, 2, seq_len, dim, 5, dtype, seed)
    kept = [some_positions(2, seq_len, seed), [torch.arange(seq_len)] * 2]
    rows = PrunedRows([layer], kept, [policy] * 2, slack, buckets.attend)
    size, gone = layer.keys.element_size(), int(dim * pruned)
    expected = []
    for row in kept:
        total = 0
        for positions in row:
            n = len(positions)
            thin = max(n - recent, 0) if gone else 0
            own = thin * (2 * dim - gone) * size + (n - thin) * 2 * dim * size
            own += (dim - gone) * (1 if dim <= 256 else 2) if gone else 0
            assert policy.head_bytes(n, dim, size) == own
            total += own
        expected.append(total)
    held = rows.held()
    assert [row.bytes for row in held] == expected
    assert [row.slots for row in held] == [sum(map(len, row)) for row in kept]
    tensors = [rows.older.k, rows.older.v, rows.newer.k, rows.newer.v, rows.channels]
    allocated = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert rows.storage_bytes == allocated == sum(expected) + 4 * slack * 2 * dim * size


def test_a_planted_channel_stays_where_either_the_queries_or_the_keys_make_it_count() -> None:
    layer = layer_of(1, 2, 30, 8, 9)
    layer.keys[..., 3], layer.window_queries[..., 3] = 50, 0  # a loud key that nobody asks for
    layer.keys[..., 6], layer.window_queries[:, :, 6] = 0.5, 40
    layer.window_queries[:, 0, 1] = 1e6  # of the query before the last eight
    layer.keys[..., 1] *= 1e-5
    rows = PrunedRows([layer], [[torch.arange(30)]], [PruneChannels(0.5, 8, 4)], 5, buckets.attend)
    channels = rows.channels[0].tolist()
    assert 6 in channels and 3 not in channels and 1 not in channels and len(channels) == 4


@pytest.mark.parametrize("attend", [reference.attend, buckets.attend])
def test_backends_take_keys_with_fewer_channels_than_values(attend: Callable[..., tuple]) -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([4, 0, 7] * 4)
    starts = lengths.cumsum(0) - lengths
    queries, keys = torch.randn(12, 3, 5, generator=draw), torch.randn(44, 5, generator=draw)
    values = torch.randn(44, 8, generator=draw)
    out, lse = attend(queries, keys, values, starts, lengths, 0.4)
    wide = [torch.nn.functional.pad(part, (0, 3)) for part in (queries, keys)]
    expected, expected_lse = reference.attend(*wide, values, starts, lengths, 0.4)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


# On models


def selections(seq_len: int, mask: torch.Tensor) -> list[Selection]:
    layers, heads, _ = mask.shape
    return [Selection.full(layers, heads, seq_len), Selection.from_mask(mask)]


def with_zeros(prefilled: Prefill, selection: Selection, policy: PruneChannels) -> Prefill:
    """A prefill whose own keys are as the policy leaves them."""
    layers = []
    for place, layer in enumerate(prefilled.layers):
        kept = [selection.head(place, head) for head in range(layer.keys.shape[0])]
        layers.append(replace(layer, keys=zeroed(layer, kept, policy)))
    return replace(prefilled, layers=layers)


def read(model: PreTrainedModel, cache: RaggedCache, ids: torch.Tensor, rows: int, position: int) -> torch.Tensor:
    where = torch.arange(position, position + len(ids))[None]
    with ragged_attention(model), torch.no_grad():
        return model(input_ids=ids.expand(rows, -1), past_key_values=cache, position_ids=where).logits


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_a_model_reads_on_as_with_zeroed_keys(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor], family: str, heads: str
) -> None:
    model, ids, after = make_model(family, heads), prompt(50), prompt(9, seed=1)
    policy = PruneChannels(0.4, 12, 6)
    prefilled = prefill(model, ids, policy.window_size)
    chosen = selections(50, uneven_mask(len(prefilled.layers), prefilled.shape.num_kv_heads, 50))
    cache = RaggedCache.of(prefilled, chosen, [policy] * 2)
    got = torch.cat([read(model, cache, part, 2, 50 + i) for i, part in [(0, after[:4]), (4, after[4:5])]], 1)
    untouched = read(model, RaggedCache.of(prefilled, chosen), after[:5], 2, 50)
    for row, selection in enumerate(chosen):
        plain = RaggedCache.of(with_zeros(prefilled, selection, policy), [selection])
        torch.testing.assert_close(got[row], read(model, plain, after[:5], 1, 50)[0], rtol=0, atol=2e-4)
    assert (got[0] - untouched[0]).abs().max() > 1e-2, "pruning that changes nothing tests nothing"


def test_nothing_pruned_is_the_full_cache_bit_by_bit(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids, after = make_model(), prompt(40), prompt(8, seed=1)
    prefilled = prefill(model, ids)
    full = Selection.full(3, 2, 40)
    for steps in ([after], after.split(1)):
        caches = [RaggedCache.of(prefilled, [full], [policy]) for policy in (PruneChannels(0.0), Grow())]
        for place, part in enumerate(steps):
            one, other = (read(model, cache, part, 1, 40 + place) for cache in caches)
            assert torch.equal(one, other)
        assert caches[0].held() == caches[1].held()
        assert caches[0].storage_bytes == caches[1].storage_bytes
    pruned, grown = decode(model, prefilled, [Row(full, PruneChannels(0.05)), Row(full)], Stop(12))
    assert pruned == grown and pruned.kept_bytes == prefilled.full_bytes, "5 % of 16 channels is none"


def test_the_rows_of_the_table_answer_in_a_batch_as_alone(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model("llama", "gqa"), prompt(60)
    think = get_method("think", recent=8)
    snap = get_method("snapkv_think", window_size=8, recent=8)
    prefilled = prefill(model, ids, 33)
    policies = [
        PruneChannels(0.4, 32, 8),
        PruneChannels(0.4, 8, 8),
        Quantize(4, 8, 8),
        Grow(),
        EvictOldestWhereEvicted(None, 2),
    ]
    every, some = think.select(prefilled, None), snap.select(prefilled, 20)
    assert every.total == 6 * 60 and some == get_method("snapkv", window_size=8).select(prefilled, 20)
    rows = [Row(every, policies[0]), Row(some, policies[1]), Row(some, policies[2]), Row(every), Row(some, policies[4])]
    rows += [Row(some, policies[0]), Row(some, PruneChannels(0.75, 32, 0))]
    together = decode(model, prefilled, rows, Stop(20))
    assert together == [decode(model, prefilled, [row], Stop(20))[0] for row in rows]
    for answer, row in zip(together, rows, strict=True):
        if isinstance(row.policy, PruneChannels):
            counts = row.selection.counts.flat
            assert answer.kept_bytes == sum(row.policy.head_bytes(int(n), 16, 4) for n in counts)
            assert answer.kept_tokens == row.selection.total
    assert together[0].kept_bytes < 0.85 * together[3].kept_bytes
    for answer, row in zip(together[:2], rows, strict=False):
        plain = with_zeros(prefilled, row.selection, row.policy)
        assert answer.tokens == decode(model, plain, [Row(row.selection)], Stop(20))[0].tokens
    again = decode(model, prefilled, rows[:2], Stop(20), first_token="compressed")
    shorter, kept = without_last(prefilled), shortened([row.selection for row in rows[:2]])
    for answer, row, selection in zip(again, rows, kept, strict=False):
        plain = with_zeros(shorter, selection, row.policy)
        assert answer.tokens == decode(model, plain, [Row(selection)], Stop(20), suffix=ids[-1:])[0].tokens
        assert answer.kept_tokens == row.selection.total


def test_rows_leave_and_are_copied(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids, after = make_model(num_hidden_layers=2), prompt(40), prompt(20, seed=1)
    prefilled = prefill(model, ids, 9)
    full = Selection.full(2, 2, 40)
    policy = PruneChannels(0.4, 8, 5)
    kept = [full, Selection.from_heads([[torch.arange(40 - 9 * h, 40) for h in (1, 3)]] * 2, 40), full, full]
    policies = [policy, policy, PruneChannels(0.8, 4, 0), Grow()]
    expected = read(model, RaggedCache.of(prefilled, kept, policies), after, 4, 40)
    cache = RaggedCache.of(prefilled, kept, policies, slack=3)
    read(model, cache, after[:11], 4, 40)
    whole = cache.held()
    cache.reorder_cache(torch.tensor([1, 1, 0, 2]))
    assert [row.bytes for row in cache.held()] == [whole[row].bytes for row in (1, 1, 0, 2)]
    cache.keep_rows(torch.tensor([1, 2, 3]))
    rest = torch.cat([read(model, cache, one, 3, 51 + i) for i, one in enumerate(after[11:].split(1))], 1)
    torch.testing.assert_close(rest, expected[[1, 0, 2], 11:], rtol=0, atol=1e-5)


def test_a_short_prompt_has_fewer_queries_than_the_window_and_a_short_prefill_is_refused(
    make_model: MakeModel, prompt: Prompt
) -> None:
    model, policy = make_model(), PruneChannels(0.5, 32, 2)
    prefilled = prefill(model, prompt(9), policy.window_size)
    row = Row(Selection.full(3, 2, 9), policy)
    got = decode(model, prefilled, [row], Stop(8))[0]
    assert (
        got.tokens
        == decode(model, with_zeros(prefilled, row.selection, policy), [Row(row.selection)], Stop(8))[0].tokens
    )
    assert got.kept_bytes == 6 * (7 * (8 + 16) * 4 + 2 * 128 + 8)
    assert decode(model, prefilled, [row], Stop(8), first_token="compressed")[0].kept_tokens == 54
    for seq_len in (40, 9):
        prefilled = prefill(model, prompt(seq_len), 4)
        with pytest.raises(CokvError, match=rf"holds 4 window queries, {min(32, seq_len)} are needed"):
            RaggedCache.of(prefilled, [Selection.full(3, 2, seq_len)], [policy])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((1.0,), "pruned is 1.0, expected the share"),
        ((-0.1,), "pruned is -0.1"),
        (("half",), "pruned is 'half'"),
        ((0.4, 0), "window_size is 0, expected a whole number, 1 or more"),
        ((0.4, 8, -1), "recent is -1, expected a whole number, 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: tuple, message: str) -> None:
    with pytest.raises(CokvError, match=message):
        PruneChannels(*settings)
