"""Which coalitions of each slice size are drawn, and in what order. Two ways, both unbiased for SSV.

**independent**: each size draws by itself, uniformly without repetition, from a generator of its own.

**balanced**: one design over all sizes. Most noise of an SSV comes from co-members: a player's mean contribution also
carries the worth of the players it happened to be drawn with. So every coalition is filled, member by member, with the
players drawn least often at this size, and among them with those that so far were drawn least often together with the
members already in it, summed over all sizes with the weight that a pair has in the score: a size makes up for pairs
that the others left uneven. On additive games the noise vanishes as soon as all pairs are even. In the end the players
are relabelled at random.

Unbiased, because a score is a mean over the drawn coalitions that hold a player: relabelling makes each of them uniform
among the coalitions of its size that hold it, for any design that does not depend on utilities. Draws of one design
depend on each other, however: errors computed as if they were independent are too large.

Nesting the sizes instead (a size's coalition inside the next one's, from one random order) is unbiased too, but makes
the score noisier than independent draws: the same co-members then count at every size (benchmarks/estimators.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from cokv.game.plan import BoolArray, Plan, checked_players
from cokv.types import CokvError, FloatArray

Draws: TypeAlias = Literal["independent", "balanced"]


def complementary_plan(
    num_players: int,
    seed: int,
    counts: Mapping[int, int],
    draws: Draws = "independent",
    mirrored: Sequence[int] = (),
    stage: int = 0,
) -> Plan:
    """Pairs (S, N without S) in rows 2d, 2d + 1: the first S of every size, then the second of every size, and so on.

    counts: coalitions per slice size; a size ends when all its coalitions are drawn. mirrored: the sizes at which a
    complement's contribution is credited too, so that balanced draws even out its co-members as well. Draws of another
    `stage` are independent of these.
    """
    n = checked_players(num_players)
    for size, count in counts.items():
        if not 1 <= size <= n:
            raise CokvError(
                f"slice size {size} in a game of {n} players, expected 1 to {n}; choose smaller slice sizes"
            )
        if count < 1:
            raise CokvError(f"coalitions_per_size = {count}, expected at least 1")
    limits = {size: min(count, math.comb(n, size)) for size, count in counts.items()}
    order = [(size, turn) for turn in range(max(limits.values())) for size in limits if turn < limits[size]]
    if draws == "balanced":
        members = _balanced(n, [size for size, _ in order], frozenset(mirrored), seed, stage)
    else:
        by_size = {size: _independent(n, seed, size, limit, stage) for size, limit in limits.items()}
        members = np.stack([by_size[size][turn] for size, turn in order])
    return Plan(
        coalitions=np.stack([members, ~members], axis=1).reshape(-1, n),
        stratum=np.repeat([size for size, _ in order], 2),
        draw=np.repeat(np.arange(len(order)), 2),
        stage=np.full(2 * len(order), stage),
    )


def checked_draws(draws: str) -> None:
    if draws not in get_args(Draws):
        raise CokvError(f"draws = {draws!r}, expected one of {', '.join(get_args(Draws))}")


def _independent(num_players: int, seed: int, size: int, count: int, stage: int) -> list[BoolArray]:
    key = (size, stage) if stage else (size,)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    rows: dict[bytes, BoolArray] = {}
    while len(rows) < count:
        row = _uniform(generator, num_players, size)
        rows.setdefault(row.tobytes(), row)
    return list(rows.values())


def _uniform(generator: np.random.Generator, num_players: int, size: int) -> BoolArray:
    row = np.zeros(num_players, dtype=np.bool_)
    row[generator.permutation(num_players)[:size]] = True
    return row


def _balanced(n: int, sizes: Sequence[int], mirrored: frozenset[int], seed: int, stage: int) -> BoolArray:
    """One coalition [n] per entry of `sizes`, stacked."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, stage)))
    label = generator.permutation(n)
    drawn_sizes = set(sizes)
    # weight of a pair that is in one coalition of a size: 1 / contributions per player at that size
    credited_sizes = {*drawn_sizes, *mirrored.intersection(n - s for s in drawn_sizes)} - {0}
    weight = {s: 1.0 / (s * ((s in drawn_sizes) + (n - s in drawn_sizes and s in mirrored))) for s in credited_sizes}
    together = np.zeros((n, n))
    times = {size: np.zeros(n) for size in weight}
    used: dict[int, set[bytes]] = {size: set() for size in weight}
    rows = np.empty((len(sizes), n), dtype=np.bool_)
    for turn, size in enumerate(sizes):
        row = _least_met(generator, times[size], together, size)
        if row.tobytes() in used[size]:
            row = _least_met(generator, np.zeros(n), together, size)
        while row.tobytes() in used[size]:
            row = _uniform(generator, n, size)
        used[size].add(row.tobytes())
        for side, credited in ((row, size), *([(~row, n - size)] if n - size in mirrored else [])):
            times[credited] += side
            together[np.ix_(side, side)] += weight[credited]
        rows[turn, label] = row
    return rows


def _least_met(generator: np.random.Generator, times: FloatArray, together: FloatArray, size: int) -> BoolArray:
    """Players drawn least often and, among them, least often together; ties at random."""
    row = np.zeros(len(times), dtype=np.bool_)
    company = np.zeros(len(times))
    chance = generator.permutation(len(times))
    rank = times.copy()
    for _ in range(size):
        fewest = rank == rank.min()
        cost = np.where(fewest, company, np.inf)
        ties = np.flatnonzero(cost == cost.min())
        player = ties[np.argmin(chance[ties])]
        row[player], rank[player] = True, np.inf
        company += together[player]
    return row
