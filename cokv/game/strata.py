"""Contributions by slice size and their means: what all estimators from complementary pairs share.

Which side of a pair counts at which size, and what becomes of a player not drawn at one: see cokv.game.sliced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cokv.game.plan import BoolArray, Estimate, Plan, checked_utilities, distinct
from cokv.types import CokvError, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Stratum:
    """Contributions at one size; every coalition here has that size."""

    size: int
    coalitions: BoolArray  # [R, n]
    contributions: FloatArray  # [R] U(coalition) - U(complement)
    draw: IntArray  # [R]
    share: FloatArray  # [R] 1 / how often this coalition occurs here, so that a repeated one counts once


def checked_sizes(slice_sizes: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in slice_sizes)
    if not sizes or len(set(sizes)) != len(sizes):
        raise CokvError(f"slice_sizes = {sizes}, expected at least one size, each named once")
    return sizes


def strata_of(plan: Plan, utilities: FloatArray, sizes: Sequence[int], mirror: bool) -> list[Stratum]:
    """One stratum per size, from a plan of pairs; mirror: credit the second side of a pair too, at its own size."""
    values = checked_utilities(utilities, len(plan.coalitions))
    members, complements = plan.coalitions[0::2], plan.coalitions[1::2]
    if len(plan.coalitions) % 2 or np.any(members == complements):
        raise CokvError("plan: rows are not pairs of a coalition and its complement; use a plan of this estimator")
    side, contribution, draw = members, values[0::2] - values[1::2], plan.draw[0::2]
    if mirror:
        side = np.concatenate([members, complements])
        contribution = np.concatenate([contribution, -contribution])
        draw = np.concatenate([draw, draw])
    side_sizes = side.sum(axis=1)
    strata = []
    for size in sizes:
        of_size = side_sizes == size
        if not of_size.any():
            planned_sizes = sorted({int(value) for value in side_sizes})
            raise CokvError(
                f"plan has no coalition of slice size {size}, only of {planned_sizes}; plan with the same slice sizes"
            )
        inverse = distinct(side[of_size])[1]
        strata.append(
            Stratum(size, side[of_size], contribution[of_size], draw[of_size], 1.0 / np.bincount(inverse)[inverse])
        )
    return strata


def weighted(strata: list[Stratum], weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scores [B, n] for draw weights [B, num_draws], and the number of sizes behind each [B, n]."""
    levels, distances = [], []
    for stratum in strata:
        weight = weights[:, stratum.draw] * stratum.share  # [B, R]
        with np.errstate(invalid="ignore"):
            mean = (weight * stratum.contributions) @ stratum.coalitions / (weight @ stratum.coalitions)
            level = weight @ stratum.contributions / weight.sum(axis=1)
        levels.append(level[:, None])
        distances.append(mean - level[:, None])
    num_sizes = np.sum(~np.isnan(distances), axis=0)
    with np.errstate(invalid="ignore"):
        level = np.nansum(levels, axis=0) / np.sum(~np.isnan(levels), axis=0)
        return level + np.nansum(distances, axis=0) / num_sizes, num_sizes


def aggregated(plan: Plan, strata: list[Stratum], scale: int) -> Estimate:
    """Scores of all draws, times `scale`, with the error of independent draws."""
    values, num_sizes = weighted(strata, np.ones((1, plan.num_draws)))
    if not num_sizes.all():
        undrawn = np.flatnonzero(num_sizes[0] == 0)
        sizes = [stratum.size for stratum in strata]
        raise CokvError(
            f"player {undrawn[0]} is in no coalition of the slice sizes {sizes} ({undrawn.size} of {plan.num_players} "
            "players are not), expected every player to be drawn; raise coalitions_per_size"
        )
    variances, counts = zip(*(variance_of_mean(stratum) for stratum in strata), strict=True)
    return Estimate(
        values=scale * values[0],
        standard_error=scale * np.sqrt(np.sum(variances, axis=0)) / num_sizes[0],
        counts=np.sum(counts, axis=0),
        evaluations=plan.evaluations,
        missing=len(strata) - num_sizes[0],
    )


def combined(plan: Plan, estimates: Sequence[Estimate], weights: FloatArray) -> Estimate:
    """Weighted sum of estimates from independent parts of a plan. weights: [estimates], sum 1."""
    return Estimate(
        values=weights @ np.array([estimate.values for estimate in estimates]),
        standard_error=np.sqrt(weights**2 @ np.array([estimate.standard_error**2 for estimate in estimates])),
        counts=np.sum([estimate.counts for estimate in estimates], axis=0),
        evaluations=plan.evaluations,
        missing=np.sum([estimate.missing for estimate in estimates], axis=0),
    )


def variance_of_mean(stratum: Stratum) -> tuple[FloatArray, IntArray]:
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
