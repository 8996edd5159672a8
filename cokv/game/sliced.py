r"""Complementary contributions: the Sliced Shapley Value (SSV) of CoKV, and the same over all sizes.

Paper: CoKV, arXiv 2502.17501, Definition 1 and Algorithm 1; for all sizes, Zhang et al., "Efficient Sampling
Approaches to Shapley Value Approximation", SIGMOD 2023. Code: nawei1010/CoKV,
experiments/longbench/score_calculation/cc_score_evaluation.py and adaptive_kv/monkeypatch (`set_cc_size`).

The complementary contribution of S is c(S) = U(S) - U(N\S). Call C(i, j) the mean of c over all S of size j that
hold player i; then SSV_i over the slice sizes H is the mean of C(i, j) over j in H. In the Shapley formula, reading
the term U(S), i not in S, as belonging to its complement N\S, which holds i, gives

    Shapley_i = 1/n * sum over j = 1..n of C(i, j)        for every game,

so SSV over all sizes 1..n IS the Shapley value. The empty coalition needs no size of its own: it is the complement
of N, whose one contribution U(N) - U(empty) is the whole of size n. Without size n, SSV over 1..n-1 is (n *
Shapley_i - U(N) + U(empty)) / (n - 1): shifted and scaled, in the same order. Over fewer sizes SSV is another value
than Shapley's; on additive games it is equal when H is closed under j -> n + 1 - j.

**The mirrored side.** One evaluated pair tells two contributions: c(S) to the members of S, and c(N\S) = -c(S) to
the members of N\S. The second is a contribution *at size n - |S|*, the size of the coalition that the player is in,
and is averaged there: it counts when n - |S| is a slice size, as n/2 is for itself, and is not asked for otherwise.
Pooled under the size of S instead, means of opposite sign would mix in the proportion in which a player happened to
be drawn, and with the large negative level of small coalitions that luck, not the game, would rank the players: in
the sums CoKV released for Qasper at size 32, pooled means follow the players' draw counts (Spearman -0.82 with the
times drawn). Nothing is lost by it: at one size, a player's sum as a member minus its mirrored sum is the same for all
players, so the mirrored mean orders them as the direct one does (0.999 in the same file).

**A player not drawn at a size** has no C(i, j). It is skipped, never 0; and since sizes differ in level (small
coalitions lose against their complement), what is averaged over the remaining sizes is the player's distance from
the size's mean, added to the mean level of all sizes. With nothing skipped that is the plain mean. A player drawn
nowhere is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cokv.game.plan import BoolArray, Estimate, Estimator, Plan, checked_players, checked_utilities, distinct
from cokv.types import CokvError, FloatArray, IntArray


@dataclass(frozen=True)
class SlicedShapley(Estimator):
    """SSV of CoKV over `slice_sizes`, from `coalitions_per_size` coalitions of each.

    aggregation="paper": mean over sizes, both sides of a pair credited, each at its own size. Algorithm 1 as printed
    credits the members of S only; the two are the same estimate unless n - j is a slice size beside j.

    aggregation="official": sum over sizes of the means of the S side alone, as the released `set_cc_size` reads the
    files of sums and counts.

    Differs: coalitions of a size are drawn without repetition (the released code may repeat one), all sizes get the
    same number of draws (Algorithm 1 draws the size too), and a player missing at a size is skipped (the released
    division gives NaN).
    """

    slice_sizes: tuple[int, ...]
    coalitions_per_size: int
    aggregation: Literal["paper", "official"] = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "slice_sizes", tuple(int(size) for size in self.slice_sizes))
        if not self.slice_sizes or len(set(self.slice_sizes)) != len(self.slice_sizes):
            raise CokvError(f"slice_sizes = {self.slice_sizes}, expected at least one size, each named once")
        if self.aggregation not in ("paper", "official"):
            raise CokvError(f"aggregation = {self.aggregation!r}, expected 'paper' or 'official'")

    def plan(self, num_players: int, seed: int) -> Plan:
        return complementary_plan(num_players, seed, self.slice_sizes, self.coalitions_per_size)

    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        return _aggregate(plan, _strata(plan, utilities, self.slice_sizes, self._mirror), self._scale)

    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        return self._scale * _weighted(_strata(plan, utilities, self.slice_sizes, self._mirror), weights)[0]

    @property
    def _mirror(self) -> bool:
        return self.aggregation == "paper"

    @property
    def _scale(self) -> int:
        return 1 if self.aggregation == "paper" else len(self.slice_sizes)


@dataclass(frozen=True)
class ComplementaryContributions(Estimator):
    """Shapley values from complementary contributions stratified over all sizes 1..n (Zhang et al. 2023).

    Differs: every size gets the same number of draws (the paper draws sizes, or allocates by variance); coalitions
    are drawn for the sizes n/2..n only, since the mirrored side of size j fills size n - j.
    """

    coalitions_per_size: int

    def plan(self, num_players: int, seed: int) -> Plan:
        return complementary_plan(
            num_players, seed, range((num_players + 1) // 2, num_players + 1), self.coalitions_per_size
        )

    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        return _aggregate(plan, _strata(plan, utilities, range(1, plan.num_players + 1), mirror=True), scale=1)

    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        return _weighted(_strata(plan, utilities, range(1, plan.num_players + 1), mirror=True), weights)[0]


def complementary_plan(num_players: int, seed: int, slice_sizes: Sequence[int], coalitions_per_size: int) -> Plan:
    """Pairs (S, N without S) in rows 2d, 2d + 1: the first S of every size, then the second of every size, and so on.

    Each size has its own generator, spawned from the seed by the size, and draws uniformly without repetition until
    `coalitions_per_size` or all coalitions of that size are drawn.
    """
    n = checked_players(num_players)
    if coalitions_per_size < 1:
        raise CokvError(f"coalitions_per_size = {coalitions_per_size}, expected at least 1")
    for size in slice_sizes:
        if not 1 <= size <= n:
            raise CokvError(
                f"slice size {size} in a game of {n} players, expected 1 to {n}; choose smaller slice sizes"
            )
    drawn = {size: _draw_size(n, seed, size, coalitions_per_size) for size in slice_sizes}
    order = [(size, turn) for turn in range(coalitions_per_size) for size in slice_sizes if turn < len(drawn[size])]
    members = np.stack([drawn[size][turn] for size, turn in order])
    return Plan(
        coalitions=np.stack([members, ~members], axis=1).reshape(-1, n),
        stratum=np.repeat([size for size, _ in order], 2),
        draw=np.repeat(np.arange(len(order)), 2),
    )


def _draw_size(num_players: int, seed: int, size: int, count: int) -> list[BoolArray]:
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(size,)))
    rows: dict[bytes, BoolArray] = {}
    while len(rows) < min(count, math.comb(num_players, size)):
        row = np.zeros(num_players, dtype=np.bool_)
        row[generator.permutation(num_players)[:size]] = True
        rows.setdefault(row.tobytes(), row)
    return list(rows.values())


@dataclass(frozen=True, eq=False)
class _Stratum:
    """Contributions at one size; every coalition here has that size."""

    size: int
    coalitions: BoolArray  # [R, n]
    contributions: FloatArray  # [R] U(coalition) - U(complement)
    draw: IntArray  # [R]
    share: FloatArray  # [R] 1 / how often this coalition stands here, so that a repeated one counts once


def _strata(plan: Plan, utilities: FloatArray, sizes: Sequence[int], mirror: bool) -> list[_Stratum]:
    values = checked_utilities(utilities, len(plan.coalitions))
    members, others = plan.coalitions[0::2], plan.coalitions[1::2]
    if len(plan.coalitions) % 2 or np.any(members == others):
        raise CokvError("plan: rows are not pairs of a coalition and its complement; use a plan of this estimator")
    side, contribution, draw = members, values[0::2] - values[1::2], plan.draw[0::2]
    if mirror:
        side = np.concatenate([members, others])
        contribution = np.concatenate([contribution, -contribution])
        draw = np.concatenate([draw, draw])
    side_sizes = side.sum(axis=1)
    strata = []
    for size in sizes:
        chosen = side_sizes == size
        if not chosen.any():
            held = sorted({int(value) for value in side_sizes})
            raise CokvError(
                f"plan has no coalition of slice size {size}, only of {held}; plan with the same slice sizes"
            )
        where = distinct(side[chosen])[1]
        strata.append(_Stratum(size, side[chosen], contribution[chosen], draw[chosen], 1.0 / np.bincount(where)[where]))
    return strata


def _weighted(strata: list[_Stratum], weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scores [B, n] for draw weights [B, num_draws], and the number of sizes behind each [B, n]."""
    levels, distances = [], []
    for stratum in strata:
        weight = weights[:, stratum.draw] * stratum.share  # [B, R]
        with np.errstate(invalid="ignore"):
            mean = (weight * stratum.contributions) @ stratum.coalitions / (weight @ stratum.coalitions)
            level = weight @ stratum.contributions / weight.sum(axis=1)
        levels.append(level[:, None])
        distances.append(mean - level[:, None])
    known = np.sum(~np.isnan(distances), axis=0)
    with np.errstate(invalid="ignore"):
        level = np.nansum(levels, axis=0) / np.sum(~np.isnan(levels), axis=0)
        return level + np.nansum(distances, axis=0) / known, known


def _aggregate(plan: Plan, strata: list[_Stratum], scale: int) -> Estimate:
    values, known = _weighted(strata, np.ones((1, plan.num_draws)))
    if not known.all():
        never = np.flatnonzero(known[0] == 0)
        sizes = [stratum.size for stratum in strata]
        raise CokvError(
            f"player {never[0]} is in no coalition of the slice sizes {sizes} ({never.size} of {plan.num_players} "
            "players are not), expected every player to be drawn; raise coalitions_per_size"
        )
    variances, counts = zip(*(_variance_of_mean(stratum) for stratum in strata), strict=True)
    return Estimate(
        values=scale * values[0],
        standard_error=scale * np.sqrt(np.sum(variances, axis=0)) / known[0],
        counts=np.sum(counts, axis=0),
        evaluations=plan.evaluations,
        missing=len(strata) - known[0],
    )


def _variance_of_mean(stratum: _Stratum) -> tuple[FloatArray, IntArray]:
    """Variance of each player's mean at this size [n], and the distinct coalitions behind it [n].

    Draws without repetition: s^2 / m * (1 - m / C(n - 1, size - 1)), so a fully enumerated size has none. A player
    not drawn adds none, since its mean skips the size; one draw of several possible ones leaves the variance
    unknown (NaN).
    """
    share = stratum.share[:, None] * stratum.coalitions  # [R, n]
    count = np.rint(share.sum(axis=0)).astype(np.int64)
    population = min(math.comb(stratum.coalitions.shape[1] - 1, stratum.size - 1), 2**62)  # within int64
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = stratum.contributions @ share / count
        squares = np.sum(share * (stratum.contributions[:, None] - mean) ** 2, axis=0)
        variance = squares / (count - 1) / count * (1.0 - count / population)
    variance = np.where(count == 1, np.nan, variance)
    return np.where((count == 0) | (count >= population), 0.0, variance), count
