"""torch's flash attention over runs of like segments, against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.cache.attention import reference, sdpa
from cokv.types import CokvError

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 1, 2, 5, 5, 5, 70]), min_size=1, max_size=9),
    gaps=st.lists(st.integers(0, 2), min_size=9, max_size=9),
    reverse=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    wide=st.booleans(),
)
def test_runs_of_any_lengths_equal_the_reference(
    lengths: list[int], gaps: list[int], reverse: bool, dtype: torch.dtype, wide: bool
) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    counts = torch.tensor(lengths)
    taken = counts + torch.tensor(gaps[: len(lengths)])
    starts = taken.flip(0).cumsum(0).flip(0) - taken if reverse else taken.cumsum(0) - taken
    keys, values = (torch.full((int(taken.sum()) + 1, 16), torch.nan) for _ in range(2))
    for start, length in zip(starts.tolist(), lengths, strict=True):
        for part in (keys, values):
            part[start : start + length] = torch.randn(length, 16, generator=generator)
    queries = torch.randn(len(lengths), 3, 16, generator=generator).to(dtype)
    queries = queries.to(torch.promote_types(dtype, torch.float32)) if wide else queries
    stored = queries, keys.to(dtype), values.to(dtype), starts, counts
    expected, got = reference.attend(*stored, 0.3), sdpa.attend(*stored, 0.3)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_segments_of_one_length_take_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, operator = [], sdpa._operator
    monkeypatch.setattr(sdpa, "_operator", lambda *args, **kwargs: calls.append(1) or operator(*args, **kwargs))
    keys = torch.randn(60, 8)
    even = torch.randn(6, 2, 8), keys, keys, torch.arange(6) * 10, torch.full((6,), 7)
    sdpa.attend(*even, 1.0)
    assert len(calls) == 1
    torch.testing.assert_close(sdpa.attend(*even, 1.0), reference.attend(*even, 1.0))


def test_keys_that_have_lost_channels_are_attended_and_a_cap_is_refused() -> None:
    stored = torch.randn(2, 1, 6), torch.randn(9, 6), torch.randn(9, 8), torch.tensor([0, 5]), torch.tensor([5, 4])
    torch.testing.assert_close(sdpa.attend(*stored, 1.0), reference.attend(*stored, 1.0))
    with pytest.raises(CokvError, match="no logits cap"):
        sdpa.attend(*stored, 1.0, softcap=3.0)
