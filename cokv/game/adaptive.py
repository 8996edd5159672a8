"""SSV with more draws for the sizes whose contributions vary more: a pilot, then Neyman's allocation.

The pilot draws the same number of coalitions of every size, fixed in advance. From its utilities `refine` estimates,
for each size, the variance that one draw leaves in the scores, and shares the rest of the draws in proportion to its
square root (Neyman, "On the Two Different Aspects of the Representative Method", 1934; for complementary
contributions, Zhang et al., SIGMOD 2023).

**Unbiased**, because (1) the second stage is drawn from generators of its own, so that given the pilot it is an SSV
estimate like any other, however many draws each size got; (2) the two are averaged with weights fixed in advance, the
pilot's share of all draws and the rest. Pooling all draws instead would weight a size's pilot by the variance that the
pilot itself measured, which is biased. In the limit of many draws the price is small: with equal variances it costs
nothing, and otherwise the variance is the pilot's share of the equal allocation's and the rest of Neyman's. With few
draws it costs more, since a pilot that holds a player once or twice weighs as much in that player's score as it does in
any other's: on the games of benchmarks/estimators.py, whose sizes vary about alike, plain draws are as good or better.
A size that the pilot draws completely is known, and gets no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cokv.game.draws import Draws, checked_draws, complementary_plan
from cokv.game.plan import Estimate, Estimator, Plan, checked_utilities, merge_plans
from cokv.game.strata import Stratum, aggregated, checked_sizes, combined, strata_of, variance_of_mean, weighted
from cokv.types import CokvError, FloatArray, IntArray


@dataclass(frozen=True)
class AdaptiveSlicedShapley(Estimator):
    """SSV as its paper aggregates it, from `coalitions_per_size` coalitions per size on average, `pilot_per_size` of
    them in the pilot.
    """

    slice_sizes: tuple[int, ...]
    coalitions_per_size: int
    pilot_per_size: int
    draws: Draws = "balanced"

    def __post_init__(self) -> None:
        object.__setattr__(self, "slice_sizes", checked_sizes(self.slice_sizes))
        checked_draws(self.draws)
        if not 2 <= self.pilot_per_size < self.coalitions_per_size:
            raise CokvError(
                f"pilot_per_size = {self.pilot_per_size} of coalitions_per_size = {self.coalitions_per_size}, "
                "expected at least 2 and fewer than all"
            )

    @property
    def independent_draws(self) -> bool:
        return self.draws == "independent"

    def plan(self, num_players: int, seed: int) -> Plan:
        """The pilot."""
        counts = dict.fromkeys(self.slice_sizes, self.pilot_per_size)
        return complementary_plan(num_players, seed, counts, self.draws, self.slice_sizes)

    def refine(self, plan: Plan, utilities: FloatArray, seed: int) -> Plan:
        """The pilot and the second stage; a plan that has both is complete."""
        if plan.stage.any():
            return plan
        n = plan.num_players
        strata = strata_of(plan, utilities, self.slice_sizes, mirror=True)
        open_sizes = [s for s in strata if self.pilot_per_size < math.comb(n, s.size)]
        if not open_sizes:
            return plan
        spread = np.array([self._spread(stratum) for stratum in open_sizes])
        minimum = np.array([math.ceil(n / stratum.size) for stratum in open_sizes])
        maximum = np.array([math.comb(n, stratum.size) for stratum in open_sizes], dtype=np.float64)
        total = (self.coalitions_per_size - self.pilot_per_size) * len(open_sizes)
        counts = allocate(total, spread, minimum, maximum)
        sizes = [stratum.size for stratum in open_sizes]
        second = complementary_plan(
            n, seed, dict(zip(sizes, counts, strict=True)), self.draws, self.slice_sizes, stage=1
        )
        return merge_plans([plan, second])

    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        stages, share = self._stages(plan, utilities)
        return combined(plan, [aggregated(plan, strata, scale=1) for strata in stages], share)

    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        stages, share = self._stages(plan, utilities)
        return np.asarray(np.tensordot(share, [weighted(strata, weights)[0] for strata in stages], axes=1))

    def _stages(self, plan: Plan, utilities: FloatArray) -> tuple[list[list[Stratum]], FloatArray]:
        """Contributions of the pilot and, where there is one, of the second stage; and the weight of each.

        A size that the second stage has not drawn (yet) enters it with the pilot's contributions.
        """
        values = checked_utilities(utilities, len(plan.coalitions))
        stages = []
        for stage in np.unique(plan.stage):
            rows = plan.stage == stage
            part = Plan(plan.coalitions[rows], plan.stratum[rows], plan.draw[rows], plan.stage[rows])
            drawn_sizes = set(np.unique(part.stratum)) if stage else set(self.slice_sizes)
            sizes = [size for size in self.slice_sizes if size in drawn_sizes]
            stages.append({s.size: s for s in strata_of(part, values[rows], sizes, mirror=True)})
        if plan.stage.min() > 0:
            raise CokvError("plan has no pilot (stage 0), expected this estimator's plan, or its refinement")
        if len(stages) == 1:
            return [list(stages[0].values())], np.ones(1)
        pilot = self.pilot_per_size / self.coalitions_per_size
        return [[strata.get(size, stages[0][size]) for size in self.slice_sizes] for strata in stages], np.array(
            [pilot, 1.0 - pilot]
        )

    def _spread(self, stratum: Stratum) -> float:
        """Square root of the variance that one draw of this size leaves in the scores, mean over players.

        One contribution gives no variance; where no player has two, the spread is unknown (NaN).
        """
        variance, _ = variance_of_mean(stratum)
        defined = variance[np.isfinite(variance)]
        return float(np.sqrt(defined.mean() * self.pilot_per_size)) if defined.size else math.nan


def allocate(total: int, spread: FloatArray, minimum: IntArray, maximum: FloatArray) -> list[int]:
    """Whole numbers of draws in proportion to `spread`, each within `minimum` and `maximum`, that sum to `total`, or to
    the sum of `maximum` if that is less. Equal shares where a spread is unknown (NaN), where all are 0, or where the
    minima exceed the total. Leftovers by largest remainder.
    """
    low, high = minimum.astype(np.float64), np.maximum(maximum, 1.0)
    if not np.isfinite(spread).all() or spread.sum() == 0:
        spread = np.ones(len(spread))
    if low.sum() > total:
        spread, low = np.ones(len(spread)), np.zeros(len(spread))
    total = int(min(total, high.sum()))
    # the shares are clip(level * spread, low, high) for the one level at which they sum to the total
    floor, ceiling = 0.0, float(total / spread[spread > 0].min())
    for _ in range(200):
        level = (floor + ceiling) / 2.0
        exact = np.clip(level * spread, low, high)
        floor, ceiling = (level, ceiling) if exact.sum() < total else (floor, level)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = [i for i in np.argsort(counts - exact, kind="stable") if counts[i] < high[i]]
    while (short := total - int(counts.sum())) > 0:
        room = [i for i in order if counts[i] < high[i]]
        counts[room[:short]] += 1
    return [max(int(count), 1) for count in counts]
