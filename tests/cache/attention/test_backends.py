"""Every backend gives what the reference gives; the reference gives what a softmax written out gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segments import storage

from cokv.cache.attention import buckets, reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=24),
    group=st.integers(1, 5),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 1000),
)
def test_buckets_equal_the_reference_for_any_lengths(
    lengths: list[int], group: int, dtype: torch.dtype, seed: int
) -> None:
    inputs = storage(lengths, group, 8, dtype, seed)
    expected, expected_lse = reference.attend(*inputs, 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "FEW", 0)  # never the loop, which is the reference itself
        patch.setattr(buckets, "LONG", 1 << 60)
        got, got_lse = buckets.attend(*inputs, 0.3)
    assert got.dtype == expected.dtype == dtype
    assert got_lse.dtype == expected_lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(got, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    torch.testing.assert_close(got_lse, expected_lse, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_the_reference_is_softmax_attention_written_out(dtype: torch.dtype) -> None:
    queries, keys, values, starts, lengths = storage([5, 1, 9], 2, 4, dtype)
    out, lse = reference.attend(queries, keys, values, starts, lengths, 0.5)
    for segment, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        for row in range(2):
            logits = [0.5 * float(queries[segment, row].double() @ keys[start + i].double()) for i in range(length)]
            weights = [torch.tensor(logit, dtype=torch.float64).exp() for logit in logits]
            mean = sum(w * values[start + i].double() for i, w in enumerate(weights)) / sum(weights)
            torch.testing.assert_close(
                out[segment, row].double(), mean, rtol=TOLERANCE[dtype], atol=2 * TOLERANCE[dtype]
            )
            assert float(lse[segment, row]) == pytest.approx(float(sum(weights).log()), abs=3 * TOLERANCE[dtype])


@pytest.mark.parametrize("segments", [3, 12])
def test_an_empty_segment_gives_zeros_and_minus_infinity(segments: int) -> None:
    inputs = storage([0, 4, 0] * (segments // 3), 2, 8, torch.float32)
    for backend in (reference, buckets):
        out, lse = backend.attend(*inputs, 1.0)
        assert (out[0] == 0).all() and (out[2] == 0).all() and (out[1] != 0).any()
        assert (lse[0] == -torch.inf).all() and (lse[2] == -torch.inf).all() and lse[1].isfinite().all()


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_bfloat16_loses_no_more_than_transformers_own_attention(spread: float) -> None:
    queries, keys, values, starts, lengths = storage([700] * 9, 4, 64, torch.bfloat16, slack=0)
    queries = queries * spread
    k, v = keys.view(9, 700, 64), values.view(9, 700, 64)
    exact = (queries.double() @ k.double().transpose(1, 2) * 0.125).softmax(-1) @ v.double()
    sdpa = torch.nn.functional.scaled_dot_product_attention(queries, k, v, scale=0.125)
    allowed = 1.6 * (sdpa.double() - exact).norm()
    for backend in (reference, buckets):
        out, _ = backend.attend(queries, keys, values, starts, lengths, 0.125)
        assert (out.double() - exact).norm() < allowed, backend.__name__


def test_all_segments_empty() -> None:
    out, lse = buckets.attend(*storage([0] * 10, 1, 8, torch.float32, slack=1), 1.0)
    assert (out == 0).all() and (lse == -torch.inf).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buckets_on_cuda_equal_the_reference_on_the_cpu(dtype: torch.dtype) -> None:
    inputs = storage([0, 1, 2, 3, 31, 32, 33, 200, 0, 7], 4, 16, dtype)
    expected, expected_lse = reference.attend(*inputs, 0.25)
    got, got_lse = buckets.attend(*(t.cuda() for t in inputs), 0.25)
    torch.testing.assert_close(got.cpu(), expected, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-4)
    torch.testing.assert_close(got_lse.cpu(), expected_lse, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-4)
