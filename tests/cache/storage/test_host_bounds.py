"""While decoding, rows that store tokens as they are ask the device for no number, and answer as if they had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from cokv.cache.attention import buckets
from cokv.cache.attention.host_bounds import Bounds
from cokv.cache.cache import RaggedCache
from cokv.cache.layer import RaggedLayer
from cokv.cache.policies.base import Policy
from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.prefill import prefill
from cokv.cache.storage.plain import PlainRows
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.types import Selection

SEQ_LEN, HEADS, STEPS = 40, 2, 32
POLICIES: list[Policy] = [
    Grow(),
    EvictOldest(18, 2),
    Compensate(2),
    H2OEviction(18),
    ScissorhandsEviction(18, 16, 3),
    TOVAEviction(18),
]


class WaitsForDevice(TorchDispatchMode):
    """Names of the operations whose result, or its shape, the host must have before it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        by_bool = name in ("index", "index_put", "index_put_") and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1])
        )
        asking = (
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "_unique2",
            "equal",
            "repeat_interleave",
            "bincount",
        )
        if by_bool or name in asking:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def operations_that_wait() -> Iterator[list[str]]:
    mode, tolist = WaitsForDevice(), torch.Tensor.tolist
    with pytest.MonkeyPatch.context() as patch, mode:
        patch.setattr(torch.Tensor, "tolist", lambda tensor: mode.names.append("tolist") or tolist(tensor))
        yield mode.names


def filled(model: PreTrainedModel, ids: torch.Tensor, policies: list[Policy]) -> RaggedLayer:
    observers = [observer for policy in policies for observer in getattr(policy, "observers", ())]
    prefilled = prefill(model, ids, 17, observers)
    last = Selection.from_mask((torch.arange(SEQ_LEN) >= SEQ_LEN - 18).expand(2, HEADS, -1))
    cache = RaggedCache.of(prefilled, [last] * len(policies), policies, slack=2 * STEPS, attend=buckets.attend)
    return cache.ragged_layers[0]


def read(layer: RaggedLayer, rows: int, t: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(rows, 4, t, 16, generator=generator)
    keys, values = (torch.randn(rows, HEADS, t, 16, generator=generator) for _ in range(2))
    return layer.attend(queries, keys, values, 0.25)


@pytest.mark.parametrize("policies", [POLICIES, *([p] for p in POLICIES)], ids=lambda p: type(p[-1]).__name__ * len(p))
def test_a_step_asks_for_nothing_and_changes_nothing(
    make_model: Callable[..., PreTrainedModel],
    prompt: Callable[..., torch.Tensor],
    policies: list[Policy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ids, rows = make_model(num_hidden_layers=2), prompt(SEQ_LEN), len(policies)
    asking = filled(model, ids, policies)
    expected = [read(asking, rows, 1, seed) for seed in range(2 * STEPS)]
    monkeypatch.setattr("cokv.cache.storage.plain.NO_WAITING", ())
    layer = filled(model, ids, policies)
    got = [read(layer, rows, 1, 0)]  # the first may lay the storage out again
    with operations_that_wait() as names:
        got += [read(layer, rows, 1, seed) for seed in range(1, STEPS - 1)]
    assert names == []
    got += [read(layer, rows, 1, seed) for seed in range(STEPS - 1, 2 * STEPS)]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    monkeypatch.undo()
    with operations_that_wait() as names:
        read(asking, rows, 1, 0)
    full = all(isinstance(policy, EvictsByAttention) for policy in policies)
    assert bool(names) is not full, "where asking costs nothing, lengths are asked for; those of full heads are known"


def test_chunks_and_rows_that_move_keep_their_bounds(
    make_model: Callable[..., PreTrainedModel], prompt: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    policies: list[Policy] = [Grow(), EvictOldest(18, 2), Grow()]
    outs = []
    for at_hand in (("cpu",), ()):
        monkeypatch.setattr("cokv.cache.storage.plain.NO_WAITING", at_hand)
        layer = filled(make_model(num_hidden_layers=2), prompt(SEQ_LEN), policies)
        out = [read(layer, 3, 5, 0)]
        layer.reorder_cache(torch.tensor([1, 1, 2, 0]))
        out.append(read(layer, 4, 1, 1))
        layer.keep_rows(torch.tensor([0, 2]))
        out += [read(layer, 2, 1, seed) for seed in range(2, 2 * STEPS)]
        outs.append(out)
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-5)


def test_bounds_grow_by_one_a_step_up_to_their_caps() -> None:
    bounds = Bounds([3, 0, 7])
    bounds.cap(2, 8)
    for step in range(1, STEPS):
        bounds.appended()
        assert bounds.at_most == [3 + step, step, 8]
    bounds.select([2, 0])
    assert bounds.at_most == [8, 3 + STEPS - 1]
    bounds.dropped(2)
    assert bounds.at_most == [8, 3 + STEPS - 3]


@pytest.mark.parametrize("policies", [POLICIES, *([p] for p in POLICIES)], ids=lambda p: type(p[-1]).__name__ * len(p))
def test_no_segment_is_ever_longer_than_its_bound(
    make_model: Callable[..., PreTrainedModel], prompt: Callable[..., torch.Tensor], policies: list[Policy]
) -> None:
    layer = filled(make_model(num_hidden_layers=2), prompt(SEQ_LEN), policies)
    for step in range(2 * STEPS):
        read(layer, len(policies), 1, step)
        (_, rows) = layer.parts[0]
        assert isinstance(rows, PlainRows)
        bounds = torch.tensor(rows.bounds.at_most)
        assert (rows.store.lengths <= bounds).all() and (bounds - rows.store.lengths <= 2).all(), step


@pytest.mark.parametrize("loose", [0, 1, 9])
def test_buckets_by_bounds_are_buckets_by_lengths(loose: int) -> None:
    """Also where a segment has none of the tokens that it could have, and begins where storage ends."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 0, 8, 1, 0, 33, 16, 0])
    starts = lengths.cumsum(0) - lengths
    keys, values = (torch.randn(int(lengths.sum()), 8, generator=generator) for _ in range(2))
    keys[0], values[0] = torch.nan, torch.nan  # of segment 0 alone
    queries = torch.randn(8, 3, 8, generator=generator)
    got = buckets.attend(queries, keys, values, starts, lengths, 0.3, [n + loose for n in lengths.tolist()])
    expected = buckets.attend(queries, keys, values, starts, lengths, 0.3)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, equal_nan=True)
        assert a[1:].isfinite().sum() == b[1:].isfinite().sum() > 0
