"""Packing: what comes back is within the bound that packing.py states, in every dtype and width."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.cache.policies.packing import pack
from cokv.types import CokvError


def steps(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Step of each group, the last axis being a group."""
    return (numbers.max(-1) - numbers.min(-1)) / (2**bits - 1)


@settings(deadline=None, max_examples=200)
@given(
    bits=st.sampled_from([2, 4, 8]),
    group=st.integers(1, 33),
    seed=st.integers(0, 9999),
    spread=st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 300.0]),
    middle=st.sampled_from([0.0, 1.0, -300.0]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
)
def test_packed_numbers_come_back_within_the_stated_bound(
    bits: int, group: int, seed: int, spread: float, middle: float, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(seed)
    numbers = (torch.randn(3, 5 * group, generator=draw, dtype=torch.float64) * spread + middle).to(dtype)
    packed = pack(numbers, group, bits)
    assert packed.low.dtype == packed.step.dtype == packed.unpacked(group).dtype == dtype
    apart, back = (n.double().numpy().reshape(3, 5, group) for n in (numbers, packed.unpacked(group)))
    step, off = packed.step.double().numpy()[..., None], np.abs(back - apart)
    limits = torch.finfo(dtype)
    wide = 4 * min(limits.eps, 2.0**-23) * np.abs(apart).max(-1, keepdims=True) + limits.smallest_normal * limits.eps
    half = limits.bits == 16
    assert (off <= step / 2 + wide + half * limits.eps / 2 * np.abs(back)).all(), "half a step, and the cast"
    assert (off <= step * (1 if half else 0.5) + 2 * wide).all(), "no more than a step in half precision"
    same = np.ptp(apart, -1) == 0
    true, same = steps(apart, bits), np.ptp(apart, -1) == 0
    assert (step[same] == 1).all()
    assert (step[..., 0] >= true * (1 - 1e-6))[~same].all(), "rounded up, that the codes reach the largest number"
    assert (step[..., 0] <= true * (1 + 2 * limits.eps) + limits.smallest_normal * limits.eps)[~same].all()
    size = numbers.element_size()
    assert packed.codes.dtype == torch.uint8 and packed.nbytes == 15 * (-(-group * bits // 8) + 2 * size)


def test_codes_lie_lowest_bits_first() -> None:
    packed = pack(torch.tensor([[0.0, 1.0, 2.0, 3.0, 3.0, 0.0]]), 6, 2)
    assert packed.codes[0, 0].tolist() == [0b11100100, 0b0011]
    with pytest.raises(CokvError, match="expected one of 2, 4, 8"):
        pack(torch.zeros(4), 4, 3)
