"""FastGenAllocator's thresholds equal a search over every threshold, and the total is spent exactly."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.methods.allocators.fastgen import FastGenAllocator
from cokv.types import Infeasible


def blank(num_layers, num_kv_heads, seq_len):
    return [torch.zeros(num_kv_heads, seq_len) for _ in range(num_layers)]


def policies(num_layers, num_kv_heads, seq_len, seed, ties):
    """Nested: slots and retained shares that never fall, everything last."""
    rng = np.random.default_rng(seed)
    slots = np.sort(rng.integers(0, seq_len + 1, (num_layers, num_kv_heads, 5)), axis=-1)
    retained = np.sort(rng.uniform(size=(num_layers, num_kv_heads, 5)), axis=-1)
    retained = np.round(retained * 4) / 4 if ties else retained
    slots[..., -1], retained[..., -1] = seq_len, 1.0
    return np.stack([slots.astype(float), retained], axis=2)


def chosen(measured, threshold):
    """Slots of each head at a threshold: the first policy that retains enough, else everything."""
    cost = []
    for slots, retained in measured.reshape(-1, 2, 5):
        enough = [p for p in range(4) if retained[p] >= threshold]
        cost.append(slots[enough[0]] if enough else slots[4])
    return np.array(cost)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 60), st.floats(0, 1.1), st.integers(0, 200), st.booleans())
def test_heads_take_what_the_largest_affordable_threshold_asks(num_layers, num_kv_heads, seq_len, fill, seed, ties):
    measured = policies(num_layers, num_kv_heads, seq_len, seed, ties)
    heads = num_layers * num_kv_heads
    total, scored_layers = round(fill * heads * seq_len), blank(num_layers, num_kv_heads, seq_len)
    if measured[:, :, 0, 0].sum() > total:
        with pytest.raises(Infeasible, match=f"the total of {total} KV slots pays for a threshold of 0.000"):
            FastGenAllocator(0).budgets(scored_layers, total, seq_len, 0, measured)
        return
    values = FastGenAllocator(0).budgets(scored_layers, total, seq_len, 0, measured).values.reshape(-1)
    assert values.sum() == min(total, heads * seq_len) and values.max() <= seq_len
    thresholds = sorted({-1.0, *measured[:, :, 1, :4].reshape(-1).tolist(), 2.0})
    affordable = [t for t in thresholds if chosen(measured, t).sum() <= total]
    now = chosen(measured, max(affordable))
    above = [t for t in thresholds if t > max(affordable)]
    following = chosen(measured, min(above)) if above else now
    assert (values >= now - 1e-9).all(), "a head got less than the threshold asks"
    assert (values[following == now] == now[following == now]).all(), "slots went to a head that asks for none"
    shares = split(now, following, min(total, heads * seq_len))
    floors = [share.numerator // share.denominator for share in shares]
    got_more = [int(value) - floor for value, floor in zip(values, floors, strict=True)]
    assert set(got_more) <= {0, 1}, "a share is rounded down or up"
    remainders = [share - floor for share, floor in zip(shares, floors, strict=True)]
    up, down = ([r for r, more in zip(remainders, got_more, strict=True) if more == which] for which in (1, 0))
    assert not up or not down or float(min(up) - max(down)) > -1e-9, "the largest remainders are rounded up"


def split(now, following, total):
    """Exact shares: every head's own, and of what is left as much as its move's part of all moves."""
    now, following = ([Fraction(int(slots)) for slots in side] for side in (now, following))
    moves = [after - before for before, after in zip(now, following, strict=True)]
    left = total - sum(now)
    assert left >= 0 and (left == 0 or left < sum(moves))
    return [before + (left * move / sum(moves) if left else 0) for before, move in zip(now, moves, strict=True)]


def test_what_is_left_goes_to_the_heads_that_move_up_in_proportion():
    measured = np.array(
        [[[[1, 2, 4, 10, 20], [0.1, 0.2, 0.5, 0.9, 1.0]], [[1, 1, 1, 2, 20], [0.9, 0.9, 0.9, 0.95, 1]]]]
    )
    budgets = FastGenAllocator().budgets(blank(1, 2, 20), 11, 20, 0, measured.astype(float))
    assert budgets.values.tolist() == [[10, 1]], "0.9 is met by both heads at exactly the total"
    more = FastGenAllocator().budgets(blank(1, 2, 20), 18, 20, 0, measured.astype(float))
    assert more.values.tolist() == [[16, 2]], "at 0.95 the second head needs 2, the first everything, of which part"


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 200))
def test_a_threshold_below_the_floor_is_refused_with_the_smallest_budget_that_works(heads, seq_len, floor, fill, seed):
    measured = policies(1, heads, seq_len, seed, False)
    allocator, kv_budget = FastGenAllocator(floor), round(fill * seq_len)
    try:
        allocator.budgets(blank(1, heads, seq_len), kv_budget * heads, seq_len, 0, measured)
        assert allocator.facts(kv_budget * heads, seq_len, 0, measured)["threshold"] >= floor
    except Infeasible as error:
        enough = int(re.search(r"kv_budget to at least (\d+)", str(error))[1])
        assert enough > kv_budget
        assert allocator.budgets(blank(1, heads, seq_len), enough * heads, seq_len, 0, measured).total
        with pytest.raises(Infeasible):
            allocator.budgets(blank(1, heads, seq_len), (enough - 1) * heads, seq_len, 0, measured)


def test_special_tokens_beyond_the_total_are_refused():
    measured = policies(1, 2, 20, 0, False)
    measured[:, :, 0, :] = np.array([9, 10, 11, 12, 20])
    with pytest.raises(Infeasible, match=r"the total of 10 KV slots pays .*; set kv_budget to at least 9 "):
        FastGenAllocator(0).budgets(blank(1, 2, 20), 10, 20, 0, measured)


def test_the_threshold_is_stated():
    measured = np.array(
        [[[[1, 2, 4, 10, 20], [0.1, 0.2, 0.5, 0.9, 1.0]], [[1, 1, 1, 2, 20], [0.9, 0.9, 0.9, 0.95, 1]]]]
    )
    facts = FastGenAllocator().facts
    assert facts(11, 20, 0, measured.astype(float)) == {"threshold": 0.9}
    assert facts(40, 20, 0, measured.astype(float)) == {"threshold": 1.0}
