"""Attention over codes is attention over what they stand for, whatever their width, groups and heads."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from cokv.cache.attention import choose, packed, reference
from cokv.cache.attention.backend import Backend, softcap_of
from cokv.cache.policies.quantize import Quantize
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.quantized import QuantizedRows

needs_c = pytest.mark.skipif(
    packed.why_not(torch.device("cpu"), torch.float32) is not None, reason="needs a C compiler for attention over codes"
)
SHAPES = [  # head_dim, group size, group, residual
    (64, 3, 32, 40),
    (64, 1, 32, 0),
    (128, 4, 32, 32),
    (80, 5, 32, 16),  # values in one part: 32 does not divide 80
    (24, 9, 5, 7),  # groups that end inside a byte; more rows than are taken at once
    (32, 2, 48, 10),  # a group longer than a block
]


def stores(
    dim: int, group: int, residual: int, dtype: torch.dtype, bits: object, softcap: float | None
) -> tuple[QuantizedRows, QuantizedRows]:
    """The same tokens in two rows of three heads, of unlike lengths, one of them empty; the second store unpacks."""
    draw = torch.Generator().manual_seed(dim)
    keys, values = (torch.randn(3, 200, dim, generator=draw).to(dtype) for _ in range(2))
    keys[..., 0] *= 9
    layer = PrefillLayer(0, keys, values, torch.empty(3, 0, dim, dtype=dtype), dim**-0.5)
    lengths = [[200, 0, 31], [7, 130, 199]]
    kept = [[torch.arange(n) for n in row] for row in lengths]
    policy = Quantize(bits, group, residual)
    fused, unpacking = (
        QuantizedRows([layer], kept, [policy] * 2, 4, Backend(attend, softcap))
        for attend in (choose.attend, reference.attend)
    )
    return fused, unpacking


def over_stored(store: QuantizedRows, queries: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp after one more token of zeros, of a copy."""
    new = torch.zeros(2, len(queries), queries.shape[2], dtype=store.residual.dtype)
    return copy.deepcopy(store)._step(queries, *new, scaling)


def in_float32(store: QuantizedRows) -> QuantizedRows:
    """The same codes, with numbers made of them in float32: what no rounding to the stored dtype has touched."""
    wide = copy.deepcopy(store)
    for pool in wide.pools.values():
        pool.keys, pool.values = (replace(p, low=p.low.float(), step=p.step.float()) for p in (pool.keys, pool.values))
    wide.residual.k, wide.residual.v = wide.residual.k.float(), wide.residual.v.float()
    wide.residual.dtype = torch.float32
    wide.residual.backend = Backend(reference.attend, softcap_of(store.residual.backend))
    return wide


@needs_c
@pytest.mark.parametrize(("dim", "rows", "group", "residual"), SHAPES)
@pytest.mark.parametrize("bits", [2, 4, 8, ((2, 8, 16),)])
def test_codes_are_attended_as_what_they_stand_for(
    dim: int, rows: int, group: int, residual: int, bits: object
) -> None:
    draw = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for softcap in (None, 2.0):
            fused, unpacking = stores(dim, group, residual, dtype, bits, softcap)
            assert fused.unpacks is None and unpacking.unpacks is not None
            for _ in range(4):
                queries = torch.randn(2, 3 * rows, 1, dim, generator=draw)
                new = torch.randn(2, 2, 3, 1, dim, generator=draw).to(dtype)
                got, theirs = (store.attend(queries, *new, dim**-0.5) for store in (fused, unpacking))
                if dtype == torch.float32:
                    torch.testing.assert_close(got, theirs, rtol=0, atol=1e-5)
            grouped = queries.view(6, rows, dim)
            (out, lse), truth, theirs = (
                over_stored(store, grouped, dim**-0.5) for store in (fused, in_float32(fused), unpacking)
            )
            assert out.dtype == lse.dtype == torch.float32
            torch.testing.assert_close(out, truth[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(lse, truth[1], rtol=0, atol=1e-5)
            if dtype != torch.float32:  # rounds what it unpacks
                assert (theirs[0] - truth[0]).abs().max() > 10 * (out - truth[0]).abs().max()


@needs_c
def test_several_threads_give_what_one_gives() -> None:
    fused, _ = stores(64, 32, 16, torch.float32, ((2, 4, 8),), None)
    queries, before = torch.randn(6, 2, 64, generator=torch.Generator().manual_seed(3)), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(over_stored(fused, queries, 0.125))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_what_the_c_function_cannot_read_is_unpacked() -> None:
    fused, unpacking = stores(64, 32, 16, torch.float64, 4, None)
    assert "torch.float64; expected float32, bfloat16 or float16" in str(fused.unpacks)
    assert "cuda; expected the CPU" in str(packed.why_not(torch.device("cuda"), torch.float32))
    assert unpacking.unpacks == "attention 'reference' attends what is unpacked"
    queries = torch.randn(2, 6, 1, 64, dtype=torch.float64)
    new = torch.zeros(2, 2, 3, 1, 64, dtype=torch.float64)
    got, expected = (store.attend(queries, *new, 0.125) for store in (fused, unpacking))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_bits_change_what_is_attended() -> None:
    """Equality of two stores says little where all widths give the same."""
    queries = torch.randn(6, 2, 64, generator=torch.Generator().manual_seed(4))
    outs = [over_stored(stores(64, 32, 0, torch.float32, bits, None)[0], queries, 0.125)[0] for bits in (2, 4, 8, 16)]
    off = [float((out - outs[-1]).abs().max()) for out in outs[:-1]]
    assert off[0] > 5 * off[1] > 25 * off[2] > 0
