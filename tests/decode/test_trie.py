"""What rows have in common is computed once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row, choose_way
from cokv.decode.decode import Decoded, Stop, decode
from cokv.decode.head_mask import HeadMask, RowTable
from cokv.decode.partition import Partition, products, representatives
from cokv.decode.session import start_session
from cokv.decode.trie import TrieCache, expanding
from cokv.decode.trie_layer import MAX_PRODUCTS
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
Draw = Callable[..., torch.Tensor]
SEQ_LEN, WINDOW = 60, 4
WAYS: tuple[Any, ...] = ("ragged", "shared", "trie")


def coalitions(prefilled: Prefill, count: int, seed: int = 0, heads: int | None = None) -> list[Row]:
    """Rows whose heads keep the prompt or its last tokens, one of them twice, in no order."""
    patterns = torch.zeros(2, prefilled.seq_len, dtype=torch.bool)
    patterns[0, -WINDOW:] = patterns[1] = True
    shape = prefilled.shape.num_layers, heads or prefilled.shape.num_kv_heads
    drawn = np.random.default_rng(seed).integers(0, 2, (count - 1, *shape))
    return [Row(HeadMask(patterns, which)) for which in (*drawn, drawn[0])]


def tokens(decoded: list[Decoded]) -> list[list[int]]:
    return [row.tokens for row in decoded]


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "qwen3-hybrid"])
def test_every_way_gives_the_same_tokens(make_model: MakeModel, prompt: Prompt, family: str, heads: str) -> None:
    model = make_model(family, heads)
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = coalitions(prefilled, 14)
    ragged, shared, trie = (tokens(decode(model, prefilled, rows, Stop(24), way=way)) for way in WAYS)
    assert ragged == shared == trie
    assert trie == [tokens(decode(model, prefilled, [row], Stop(24), way="trie"))[0] for row in rows]
    assert trie[0] == trie[-1] and len({tuple(row) for row in trie}) >= 4


@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_rows_that_end_leave_the_trie(make_model: MakeModel, prompt: Prompt, family: str) -> None:
    model = make_model(family)
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = coalitions(prefilled, 30)
    long = tokens(decode(model, prefilled, rows, Stop(24), way="shared"))
    stop = Stop(24, tuple({answer[5] for answer in long[:4]}))
    assert len({len(row) for row in tokens(decode(model, prefilled, rows, stop, way="shared"))}) > 3
    for limit in (1, 100_000, 1 << 30):
        trie = tokens(decode(model, prefilled, rows, stop, way="trie", max_bytes=limit))
        assert trie == tokens(decode(model, prefilled, rows, stop, way="shared"))


@pytest.mark.parametrize("way", ["shared", "trie"])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_query_heads_are_masked_one_by_one(
    make_model: MakeModel, prompt: Prompt, dense_reference: Callable[..., torch.Tensor], family: str, way: Any
) -> None:
    """Against a model with as many KV heads as query heads, whose K and V are copies: the same function."""
    model = make_model(family)
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = coalitions(prefilled, 6, heads=4)
    answers = tokens(decode(model, prefilled, rows, Stop(12), way=way))
    assert len({tuple(answer) for answer in answers}) > 2
    wide = _with_all_heads(model)
    for row, answer in zip(rows, answers, strict=True):
        assert isinstance(row.selection, HeadMask)
        mask = row.selection.patterns[torch.from_numpy(row.selection.which)]
        logits = dense_reference(wide, prompt(SEQ_LEN), torch.tensor(answer[:-1]), mask)
        assert logits.argmax(-1).tolist() == answer[1:]


def _with_all_heads(model: PreTrainedModel) -> PreTrainedModel:
    config = type(model.config)(**{**model.config.to_dict(), "num_key_value_heads": 4})
    wide = type(model)(config).eval().requires_grad_(False)
    state = model.state_dict()
    for name, weight in state.items():
        if "k_proj" in name or "v_proj" in name:
            state[name] = weight.view(2, 1, 16, -1).expand(2, 2, 16, -1).reshape(64, -1).squeeze(-1)
    wide.load_state_dict(state)
    return wide


def test_a_kv_head_is_stored_when_any_query_head_keeps_it(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    patterns = torch.zeros(2, SEQ_LEN, dtype=torch.bool)
    patterns[0, -WINDOW:] = patterns[1] = True
    which = np.zeros((3, 4), dtype=np.int64)
    which[1, 2] = 1  # a query head of layer 1's KV head 1
    row = Row(HeadMask(patterns, which))
    assert decode(model, prefilled, [row], Stop(2), way="trie")[0].kept_tokens == SEQ_LEN + 5 * WINDOW
    with pytest.raises(CokvError, match="which only the shared ways can decode"):
        decode(model, prefilled, [row], Stop(2), way="ragged")
    which[1, 3] = 1
    whole = Row(HeadMask(patterns, which))
    assert tokens(decode(model, prefilled, [whole], Stop(9))) == tokens(
        decode(model, prefilled, [whole], Stop(9), way="trie")
    )


def test_slots_of_a_choice_are_those_its_mask_keeps() -> None:
    patterns = torch.rand(4, 50, generator=torch.Generator().manual_seed(0)) < 0.4
    which = np.random.default_rng(0).integers(0, 4, (3, 8))
    mask = patterns[torch.from_numpy(which)]
    assert HeadMask(patterns, which).total(8) == int(mask.sum())
    for kv_heads in (1, 2, 4):
        grouped = mask.view(3, kv_heads, -1, 50).any(2)
        assert HeadMask(patterns, which).total(kv_heads) == int(grouped.sum())


def test_rows_of_all_kinds_in_one_batch(make_model: MakeModel, prompt: Prompt, uneven_mask: Draw) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    own = [Row(Selection.from_mask(uneven_mask(3, 2, SEQ_LEN, seed))) for seed in range(4)]
    rows = [own[0], *coalitions(prefilled, 4), *own[1:], *coalitions(prefilled, 4, seed=1)]
    assert len(RowTable.of(prefilled, [row.selection for row in rows]).patterns) > MAX_PRODUCTS
    ragged, shared, trie = (tokens(decode(model, prefilled, rows, Stop(16), way=way)) for way in WAYS)
    assert ragged == shared == trie
    fine = [*rows, *coalitions(prefilled, 3, heads=4)]
    assert tokens(decode(model, prefilled, fine, Stop(16), way="trie"))[: len(rows)] == ragged


def test_a_step_runs_on_nodes(make_model: MakeModel, prompt: Prompt) -> None:
    """One row at the bottom, the distinct masks of layer 0 above it, and so on; equal rows stay one."""
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = coalitions(prefilled, 200)
    which = np.stack([row.selection.which for row in rows if isinstance(row.selection, HeadMask)])
    expected = [1] + [len(np.unique(which[:, : layer + 1].reshape(200, -1), axis=0)) for layer in range(3)]
    node_counts: list[int] = []
    watch = [m.mlp.register_forward_hook(lambda m, a, out: node_counts.append(len(out))) for m in model.model.layers]
    try:
        with ragged_attention(model), start_session(model, prefilled, rows, "trie", 4) as (reader, first, nodes):
            assert len(first) == 1 and set(nodes.tolist()) == {0}
            logits, nodes = reader.read(first.argmax(-1).expand(200)[:, None])
    finally:
        for hook in watch:
            hook.remove()
    assert node_counts == expected[1:] and node_counts[:2] == [4, 16] and len(logits) == node_counts[2] < 200
    assert len(set(nodes.tolist())) == node_counts[2]


def test_hooks_are_removed_also_after_an_exception(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    cache = TrieCache(prefilled, RowTable.of(prefilled, [row.selection for row in coalitions(prefilled, 3)]), 2)
    with pytest.raises(RuntimeError, match="inside"), expanding(model, cache):
        assert all(layer._forward_pre_hooks for layer in model.model.layers)
        raise RuntimeError("inside")
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


def test_two_rows_share_a_node_while_masks_and_tokens_agree() -> None:
    rng = np.random.default_rng(0)
    keys, histories = rng.integers(0, 2, (40, 5)), rng.integers(0, 3, 40)
    partition = Partition.of(np.arange(40), histories, keys)
    for level, nodes in enumerate(partition.levels):
        below = np.concatenate([histories[:, None], keys[:, :level]], axis=1)
        assert np.array_equal(nodes[:, None] == nodes, (below[:, None] == below).all(-1))
        assert partition.nodes(level) == nodes.max() + 1
    for layer in range(5):
        up, down = partition.parents(layer), partition.children(layer)
        assert np.array_equal(up[down], np.arange(partition.nodes(layer)))
        assert np.array_equal(up[partition.levels[layer + 1]], partition.levels[layer])


def test_nodes_find_their_past_after_rows_left_and_tokens_parted() -> None:
    rng = np.random.default_rng(1)
    keys, histories, rows = rng.integers(0, 2, (40, 4)), rng.integers(0, 2, 40), np.arange(40)
    before = Partition.of(rows, histories, keys)
    stay = np.flatnonzero(rng.random(40) < 0.7)
    after = Partition.of(stay, histories[stay] * 3 + rng.integers(0, 3, len(stay)), keys[stay])
    for level in range(5):
        assert np.array_equal(after.moved(before, level)[after.levels[level]], before.levels[level][stay])


@pytest.mark.parametrize("columns", [1, 3])
def test_each_distinct_product_is_formed_once(columns: int) -> None:
    rng = np.random.default_rng(2)
    parents = np.sort(rng.integers(0, 6, 30))
    which = rng.integers(0, 4, (30, 2, columns))
    bucket = np.array([0, 1, 1, 2])
    formed = products(parents, which, 6, bucket)
    assert formed.entry.shape == which.shape and len(formed.queries) == 2 * sum(formed.widths)
    starts = 2 * (np.cumsum(formed.widths) - formed.widths)
    for (node, head, column), place in np.ndenumerate(formed.entry):
        assert formed.pattern[place] == which[node, head, column]
        assert formed.queries[place] == (head * 6 + parents[node]) * columns + column
        b = bucket[which[node, head, column]]
        assert (place - starts[b]) // formed.widths[b] == head, "in its bucket, among its head's"
    wanted = {(h, parents[n], c, which[n, h, c]) for n, h, c in np.ndindex(which.shape)}
    assert len(np.unique(formed.entry)) == len(wanted)


def test_representatives_are_in_their_nodes() -> None:
    nodes = np.array([0, 1, 0, 2, 1, 3])
    assert representatives(nodes).tolist() == [0, 1, 3, 5]


def test_equal_sets_of_positions_are_one_pattern(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(), prompt(SEQ_LEN))
    rows = coalitions(prefilled, 5)
    selections = [row.selection.selection(2) for row in rows if isinstance(row.selection, HeadMask)]
    table = RowTable.of(prefilled, [*selections, *(row.selection for row in rows)])
    assert len(table.patterns) == 2
    assert np.array_equal(table.which[:5], table.which[5:])
    assert torch.equal(table.mask()[0], selections[0].mask())
    order = table.order()
    keys = table.keys[order]
    assert sorted(order) == list(range(10))
    assert [tuple(k) for k in keys] == sorted(tuple(k) for k in keys)


def test_rows_for_another_model_are_refused(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    patterns = torch.ones(1, SEQ_LEN, dtype=torch.bool)
    for shape in ((2, 2), (3, 3)):
        row = Row(HeadMask(patterns, np.zeros(shape, dtype=np.int64)))
        for way in ("shared", "trie", "auto"):
            with pytest.raises(CokvError, match="select on this prefill"):
                decode(model, prefilled, [row], Stop(2), way=way)


def test_a_model_whose_layers_are_not_found_is_decoded_without_the_trie(
    fresh_model: MakeModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = coalitions(prefilled, 5)
    expected = tokens(decode(model, prefilled, rows, Stop(6), way="trie"))
    assert choose_way(model, prefilled, rows) == "trie"
    monkeypatch.setattr(model, "get_decoder", lambda: model.lm_head)
    assert choose_way(model, prefilled, rows) == "shared"
    assert tokens(decode(model, prefilled, rows, Stop(6), way="auto")) == expected
    with pytest.raises(CokvError, match="decode with way='shared'"):
        decode(model, prefilled, rows, Stop(6), way="trie")
    assert model.config._attn_implementation != "cokv"
