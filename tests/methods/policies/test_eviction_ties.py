"""Which token FastGen and CAKE drop where several look alike: ties go the way that the prompt's own ranking takes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction

WINDOW, KERNEL = 6, 5


def pooled(weights: np.ndarray) -> list[float]:
    """[query heads, tokens] -> mean over the heads of averages over five neighbours, zeros beyond the ends."""
    scores = []
    for i in range(weights.shape[1]):
        near = range(max(i - KERNEL // 2, 0), min(i + KERNEL // 2 + 1, weights.shape[1]))
        scores.append(float(np.mean([sum(row[j] for j in near) / KERNEL for row in weights])))
    return scores


@settings(deadline=None, max_examples=60)
@given(
    held=st.lists(st.integers(0, 59), min_size=1, max_size=25, unique=True),
    levels=st.integers(1, 4),
    shares=st.tuples(st.sampled_from([0.0, 0.1, 0.3, 1.0]), st.sampled_from([0.0, 0.3, 1.0])),
    seed=st.integers(0, 99),
)
def test_ties_in_the_tiers_go_to_the_earlier(
    held: list[int], levels: int, shares: tuple[float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sums, kinds = rng.integers(0, levels, len(held)) / 4, rng.choice([0, 0, 3, 4], len(held))
    tokens_read = max(held) + 1
    attended = sorted(range(len(held)), key=lambda i: (-sums[i], held[i]))
    tiers = {i: int(kinds[i]) for i in attended}
    for i in attended[: int(shares[0] * tokens_read)]:
        tiers[i] = max(tiers[i], 2)
    for i in attended:
        tiers[i] = max(tiers[i], int(held[i] >= tokens_read - int(shares[1] * tokens_read)))
    expected = min(attended, key=lambda i: (tiers[i], held[i] if tiers[i] == 1 else -attended.index(i)))
    memory = torch.zeros(1, len(held) + 2, 2)
    memory[0, : len(held)] = torch.from_numpy(np.stack([sums, kinds], -1))
    positions = torch.tensor([[*held, -1, -1]], dtype=torch.int32)
    assert FastGenEviction(4, *shares).worst(memory, positions, 1).tolist() == [expected]


@settings(deadline=None, max_examples=60)
@given(
    held=st.lists(st.integers(0, 59), min_size=9, max_size=25, unique=True),
    levels=st.integers(1, 4),
    ranked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_ties_after_pooling_go_to_the_first_in_the_last_ranking(
    held: list[int], levels: int, ranked: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    attention, policy = rng.integers(0, levels, len(held)) * 1.25, CakeEviction(8, WINDOW, KERNEL)
    by_age = sorted(range(len(held)), key=lambda i: held[i])
    old = by_age[:-WINDOW]
    if ranked:  # all but the one that has just left the window
        old = [*rng.permutation(old[:-1]).tolist(), old[-1]]
    places = {i: place + 1 for place, i in enumerate(old[:-1])} if ranked else {}
    order = sorted(range(len(old)), key=lambda n: (-pooled(attention[None, old])[n], n))
    memory = torch.zeros(1, len(held) + 2, 2)
    for i in range(len(held)):
        memory[0, i] = torch.tensor([attention[i], places.get(i, 0)])
    positions = torch.tensor([[*held, -1, -1]], dtype=torch.int32)
    assert policy.worst(memory, positions, 1).tolist() == [old[order[-1]]]
    expected = torch.zeros(len(held) + 2)
    for place, n in enumerate(order):
        expected[old[n]] = place + 1
    assert memory[0, :, 1].tolist() == expected.tolist(), "the next ranking starts from this one"
