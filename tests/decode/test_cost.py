"""The way that `auto` means is counted: ragged for small kept sets, trie for coalitions, and what decodes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from cokv.cache.policies.growth import EvictOldest
from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row, choose_way
from cokv.decode.cost import Cost, cheapest, costs
from cokv.decode.decode import Stop, decode
from cokv.decode.head_mask import HeadMask, RowTable
from cokv.types import Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN = 400
WEIGHTS = 100_000


@pytest.fixture
def prefilled(make_model: MakeModel, prompt: Prompt) -> Prefill:
    return prefill(make_model(), prompt(SEQ_LEN))


def scattered(count: int, kept: int) -> list[Selection]:
    """Rows that each keep their own `kept` positions in every head."""
    noise = torch.rand(count, 3, 2, SEQ_LEN, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros_like(noise, dtype=torch.bool).scatter_(-1, noise.topk(kept).indices, True)
    return [Selection.from_mask(mask) for mask in masks]


def coalitions(count: int, heads: int = 2, share: float = 0.5) -> list[HeadMask]:
    patterns = torch.zeros(2, SEQ_LEN, dtype=torch.bool)
    patterns[0, -8:] = patterns[1] = True
    drawn = np.random.default_rng(0).random((count, 3, heads)) < share
    return [HeadMask(patterns, which.astype(np.int64)) for which in drawn]


def test_small_kept_sets_are_ragged_and_coalitions_are_not(prefilled: Prefill) -> None:
    assert cheapest(prefilled, RowTable.of(prefilled, scattered(12, 10)), WEIGHTS) == "ragged"
    assert cheapest(prefilled, RowTable.of(prefilled, scattered(12, 390)), WEIGHTS) != "ragged"
    assert cheapest(prefilled, RowTable.of(prefilled, coalitions(12)), WEIGHTS) == "trie"


def test_the_choice_flips_once_as_rows_keep_more(prefilled: Prefill) -> None:
    chosen = [
        cheapest(prefilled, RowTable.of(prefilled, scattered(8, kept)), WEIGHTS) == "ragged"
        for kept in range(5, 400, 40)
    ]
    assert chosen[0] and not chosen[-1]
    assert chosen == sorted(chosen, reverse=True)


def test_counts_grow_with_what_is_kept_and_shared_work_counts_once(prefilled: Prefill) -> None:
    few, many = (costs(prefilled, RowTable.of(prefilled, scattered(8, kept)), WEIGHTS) for kept in (10, 200))
    assert few["ragged"].total < many["ragged"].total
    assert few["shared"] == many["shared"], "the shared way forms all logits, whatever is kept"
    rows = coalitions(20)
    once, twice = (costs(prefilled, RowTable.of(prefilled, sets_of_rows), WEIGHTS) for sets_of_rows in (rows, rows * 2))
    assert once["trie"] == twice["trie"], "equal rows are one"
    assert twice["ragged"].total == 2 * once["ragged"].total
    assert Cost(8.0, 16.0).total == 10.0


def test_one_coalition_kept_whole_counts_the_same_products_in_both_shared_ways(prefilled: Prefill) -> None:
    table = RowTable.of(
        prefilled, [HeadMask(torch.ones(1, SEQ_LEN, dtype=torch.bool), np.zeros((3, 2), dtype=np.int64))]
    )
    counts = costs(prefilled, table, WEIGHTS)
    assert counts["trie"] == counts["shared"]


def test_rows_only_some_ways_can_decode(make_model: MakeModel, prefilled: Prefill) -> None:
    model = make_model()
    few = [Row(selection) for selection in scattered(6, 10)]
    assert choose_way(model, prefilled, few) == "ragged"
    fine = [Row(choice) for choice in coalitions(4, heads=4, share=0.0)]
    assert choose_way(model, prefilled, fine) != "ragged"
    whole = Selection.from_mask(torch.ones(3, 2, SEQ_LEN, dtype=torch.bool))
    assert choose_way(model, prefilled, [Row(whole)] * 20) == "trie"
    assert choose_way(model, prefilled, [Row(whole)] * 20 + [Row(whole, EvictOldest(SEQ_LEN + 8))]) == "ragged"
    assert choose_way(model, prefilled, []) == "ragged"


@pytest.mark.parametrize("kept", [10, 390])
def test_auto_decodes_what_every_way_decodes(make_model: MakeModel, prefilled: Prefill, kept: int) -> None:
    model = make_model()
    rows = [Row(selection) for selection in scattered(5, kept)]
    ways: tuple[Any, ...] = ("auto", "ragged", "shared", "trie")
    answers = [[row.tokens for row in decode(model, prefilled, rows, Stop(8), way=way)] for way in ways]
    assert all(answer == answers[0] for answer in answers)
