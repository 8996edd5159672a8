"""decode: the shared way is the ragged way, and both are the model's own greedy decoding over the kept tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from cokv.cache.attention import reference
from cokv.cache.cache import RaggedCache
from cokv.cache.policies.growth import EvictOldest
from cokv.cache.prefill import Prefill, prefill
from cokv.cache.storage.ragged import SLACK
from cokv.decode.batches import Row, batches
from cokv.decode.decode import Decoded, Stop, decode
from cokv.decode.shared import SharedCache
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
Draw = Callable[..., torch.Tensor]
SEQ_LEN = 60
WAYS: tuple[Any, ...] = ("ragged", "shared", "trie")


def rows_of(prefilled: Prefill, draw: Draw, count: int) -> list[Row]:
    """Rows with uneven budgets, zero among them; the first keeps everything."""
    shape = prefilled.shape.num_layers, prefilled.shape.num_kv_heads
    masks = [draw(*shape, prefilled.seq_len, seed) for seed in range(count - 1)]
    return [Row(Selection.full(*shape, prefilled.seq_len)), *(Row(Selection.from_mask(mask)) for mask in masks)]


def tokens(decoded: list[Decoded]) -> list[list[int]]:
    return [row.tokens for row in decoded]


def generated(model: PreTrainedModel, ids: torch.Tensor, **settings: Any) -> list[int]:
    return model.generate(ids[None], do_sample=False, **settings)[0, len(ids) :].tolist()


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3-hybrid"])
def test_shared_is_ragged_token_for_token(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Draw, family: str, heads: str
) -> None:
    model, ids = make_model(family, heads), prompt(SEQ_LEN)
    prefilled = prefill(model, ids)
    rows, stop = rows_of(prefilled, uneven_mask, 12), Stop(40)
    ragged, shared, trie = (tokens(decode(model, prefilled, rows, stop, way=way)) for way in WAYS)
    assert ragged == shared == trie
    assert ragged[0] == generated(model, ids, max_new_tokens=40)
    assert len({tuple(row) for row in ragged}) > 6, "rows that all answer alike test nothing"
    assert tokens(decode(model, prefilled, rows, stop, attend=reference.attend)) == ragged


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
def test_each_token_is_the_best_one_over_the_kept_tokens(
    make_model: MakeModel,
    prompt: Prompt,
    uneven_mask: Draw,
    dense_reference: Callable[..., torch.Tensor],
    heads: str,
    way: Any,
) -> None:
    model, ids = make_model("llama", heads), prompt(SEQ_LEN)
    prefilled = prefill(model, ids)
    rows = rows_of(prefilled, uneven_mask, 6)
    for row, answer in zip(rows, tokens(decode(model, prefilled, rows, Stop(24), way=way)), strict=True):
        assert answer[0] == int(prefilled.first_logits.argmax()), "the first token is the uncompressed prefill's"
        logits = dense_reference(model, ids, torch.tensor(answer[:-1]), row.selection.mask())
        assert logits.argmax(-1).tolist() == answer[1:]


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_rows_that_end_early_leave_the_others_alone(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Draw, family: str, way: Any
) -> None:
    model = make_model(family)
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = rows_of(prefilled, uneven_mask, 10)
    long = tokens(decode(model, prefilled, rows, Stop(30), way=way))
    stops = (long[1][4], long[2][9], long[3][15])
    expected = []
    for answer in long:
        ends = [i for i, token in enumerate(answer) if token in stops]
        expected.append(answer[: ends[0] + 1] if ends else answer)
    assert len({len(answer) for answer in expected}) > 3, "rows should end at different times"
    assert tokens(decode(model, prefilled, rows, Stop(30, stops), way=way)) == expected


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
def test_answers_do_not_depend_on_the_batch(make_model: MakeModel, prompt: Prompt, uneven_mask: Draw, way: Any) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows, stop = rows_of(prefilled, uneven_mask, 7), Stop(20)
    together = decode(model, prefilled, rows, stop, way=way)
    assert tokens(decode(model, prefilled, iter(rows), stop, way=way, max_bytes=1)) == tokens(together)
    three = 3 * 6 * (SEQ_LEN + 32) * prefilled.token_bytes
    assert tokens(decode(model, prefilled, rows, stop, way=way, max_bytes=three)) == tokens(together)
    assert decode(model, prefilled, [], stop, way=way) == []


def test_batches_hold_no_more_than_asked(make_model: MakeModel, prompt: Prompt, uneven_mask: Draw) -> None:
    """The ragged way's whole storage, with slack, and the shared way's masks and new tokens, as they really are."""
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = rows_of(prefilled, uneven_mask, 9)

    def split(way: Any, queries: int, limit: int) -> list[list[Row]]:
        return [batch.rows for _, batch in batches(model, prefilled, rows, way, 20, queries, limit)]

    for limit in (80_000, 150_000):
        groups = split("ragged", 1, limit)
        assert [row for batch in groups for row in batch] == rows
        assert 1 < len(groups) < len(rows)
        for batch in groups:
            assert RaggedCache.of(prefilled, [row.selection for row in batch]).storage_bytes <= limit
        shared = split("shared", 1, limit)
        assert [row for batch in shared for row in batch] == rows
        for batch in shared:
            layers = SharedCache(prefilled, [row.selection for row in batch], 20).layers
            held = sum(layer.kept.nbytes + layer.tail_keys.nbytes + layer.tail_values.nbytes for layer in layers)
            assert len(batch) == 1 or held <= limit
    longer = split("shared", 50, 150_000)
    assert len(longer) > len(shared), "a suffix of many tokens needs more room for its attention weights"


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
def test_stop_ids_and_least_length_are_those_of_transformers(make_model: MakeModel, prompt: Prompt, way: Any) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)
    prefilled = prefill(model, ids)
    row = Row(Selection.full(3, 2, SEQ_LEN))
    plain = generated(model, ids, max_new_tokens=20)
    for least in (0, 1, 3, 20):
        stops = (plain[0], plain[2], plain[7])
        expected = generated(model, ids, max_new_tokens=20, min_new_tokens=least, eos_token_id=list(stops))
        (got,) = tokens(decode(model, prefilled, [row], Stop(20, stops, least), way=way))
        assert got == expected, least
        assert not set(got[:least]) & set(stops)
    assert tokens(decode(model, prefilled, [row], Stop(1), way=way)) == [plain[:1]]


@pytest.mark.parametrize(("new", "least"), [(0, 0), (3, 4), (3, -1)])
def test_impossible_lengths_are_refused(new: int, least: int) -> None:
    with pytest.raises(CokvError, match="0 <= min_new_tokens <= max_new_tokens"):
        Stop(new, (), least)


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3-hybrid"])
def test_a_suffix_is_read_on_the_compressed_cache(
    make_model: MakeModel,
    prompt: Prompt,
    uneven_mask: Draw,
    dense_reference: Callable[..., torch.Tensor],
    family: str,
    way: Any,
) -> None:
    model, ids, suffix = make_model(family), prompt(SEQ_LEN), prompt(19, seed=1)
    prefilled = prefill(model, ids)
    rows = rows_of(prefilled, uneven_mask, 5)
    answers = tokens(decode(model, prefilled, rows, Stop(20), way=way, suffix=suffix))
    assert answers[0] == generated(model, torch.cat([ids, suffix]), max_new_tokens=20), "a full budget changes nothing"
    for row, answer in zip(rows, answers, strict=True):
        after = torch.cat([suffix, torch.tensor(answer[:-1], dtype=torch.long)])
        logits = dense_reference(model, ids, after, row.selection.mask())
        assert logits.argmax(-1)[len(suffix) - 1 :].tolist() == answer
    assert answers[0] != answers[1]


def test_evicting_rows_beside_growing_ones(make_model: MakeModel, prompt: Prompt, uneven_mask: Draw) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    ends = (torch.arange(SEQ_LEN) < 4) | (torch.arange(SEQ_LEN) >= SEQ_LEN - 12)
    selection = Selection.from_mask(ends.expand(3, 2, SEQ_LEN))
    mixed = [*rows_of(prefilled, uneven_mask, 3), Row(selection, EvictOldest(16, 4)), Row(selection)]
    together = tokens(decode(model, prefilled, mixed, Stop(40)))
    assert together == [tokens(decode(model, prefilled, [row], Stop(40)))[0] for row in mixed]
    assert together[-1] != together[-2], "eviction should show"
    with pytest.raises(CokvError, match="way='ragged'"):
        decode(model, prefilled, mixed, Stop(40), way="shared")


def test_what_is_counted(make_model: MakeModel, prompt: Prompt, uneven_mask: Draw) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = rows_of(prefilled, uneven_mask, 4)
    for row, got in zip(rows, decode(model, prefilled, rows, Stop(3)), strict=True):
        assert got.kept_tokens == row.selection.budgets.total
        assert got.kept_bytes == got.kept_tokens * 2 * 16 * 4
        assert got.slack_bytes == 6 * (SLACK - 2) * 2 * 16 * 4, "two tokens were read"
    assert {got.slack_bytes for got in decode(model, prefilled, rows, Stop(3), way="shared")} == {None}


def test_slack_is_what_is_free_when_a_row_ends(make_model: MakeModel, prompt: Prompt, uneven_mask: Draw) -> None:
    """Its own: rows that leave later are not charged for the storage of those that left before."""
    model = make_model()
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = rows_of(prefilled, uneven_mask, 6)
    long = tokens(decode(model, prefilled, rows, Stop(50)))
    stop = Stop(50, (long[1][4], long[2][40]))
    together = decode(model, prefilled, rows, stop)
    assert {len(answer.tokens) <= SLACK for answer in together} == {True, False}, "some outgrow their first slack"
    for row, answer in zip(rows, together, strict=True):
        assert [answer] == decode(model, prefilled, [row], stop)
        read = len(answer.tokens) - 1
        assert answer.slack_bytes == 6 * (SLACK - read if read <= SLACK else -read % SLACK) * prefilled.token_bytes


def test_what_cannot_be_decoded_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model(max_position_embeddings=64)
    prefilled = prefill(model, prompt(SEQ_LEN))
    row = Row(Selection.full(3, 2, SEQ_LEN))
    assert len(decode(model, prefilled, [row], Stop(4))[0].tokens) == 4
    with pytest.raises(CokvError, match="60 tokens plus 5 to generate"):
        decode(model, prefilled, [row], Stop(5))
    with pytest.raises(CokvError, match="60 tokens plus 5"):
        decode(model, prefilled, [row], Stop(3), suffix=prompt(2))
    for way in WAYS:
        with pytest.raises(CokvError, match="select on this prefill"):
            decode(model, prefilled, [replace(row, selection=Selection.full(3, 2, 9))], Stop(2), way=way)
    with pytest.raises(CokvError, match="'dense'; expected one of ragged, shared, trie, auto"):
        decode(model, prefilled, [row], Stop(2), way="dense")  # type: ignore[arg-type]
    for suffix in (prompt(0), prompt(2)[None]):
        with pytest.raises(CokvError, match="suffix ids have shape"):
            decode(model, prefilled, [row], Stop(2), suffix=suffix)


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
def test_bfloat16_decodes(fresh_model: MakeModel, prompt: Prompt, uneven_mask: Draw, way: Any) -> None:
    model = fresh_model().to(torch.bfloat16)
    ids = prompt(SEQ_LEN)
    prefilled = prefill(model, ids)
    answers = tokens(
        decode(model, prefilled, rows_of(prefilled, uneven_mask, 4), Stop(16), way=way, suffix=prompt(5, seed=2))
    )
    assert [len(answer) for answer in answers] == [16] * 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_shared_is_ragged_on_cuda(fresh_model: MakeModel, prompt: Prompt, uneven_mask: Draw) -> None:
    model = fresh_model("qwen3-hybrid").cuda()
    prefilled = prefill(model, prompt(SEQ_LEN))
    rows = rows_of(prefilled, uneven_mask, 6)
    ragged, shared, trie = (tokens(decode(model, prefilled, rows, Stop(30), way=way)) for way in WAYS)
    assert ragged == shared == trie
