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

**The mirrored side.** One evaluated pair gives two contributions: c(S) to the members of S, and c(N\S) = -c(S) to
the members of N\S. The second is a contribution *at size n - |S|*, the size of the coalition that the player is in,
and is averaged there: it counts when n - |S| is a slice size, as n/2 is for itself, and is left out otherwise.
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

from dataclasses import dataclass
from typing import Literal

from cokv.game.draws import Draws, checked_draws, complementary_plan
from cokv.game.plan import Estimate, Estimator, Plan, checked_players
from cokv.game.strata import aggregated, checked_sizes, strata_of, weighted
from cokv.types import CokvError, FloatArray


@dataclass(frozen=True)
class SlicedShapley(Estimator):
    """SSV of CoKV over `slice_sizes`, from `coalitions_per_size` coalitions of each.

    aggregation="paper": mean over sizes, both sides of a pair credited, each at its own size. Algorithm 1 as printed
    credits the members of S only; the two are the same estimate unless n - j is a slice size beside j.

    aggregation="official": sum over sizes of the means of the S side alone, as the released `set_cc_size` reads the
    files of sums and counts.

    draws="balanced": co-members are evened out over all sizes (cokv.game.draws): the same value, with far less noise.

    Differs: coalitions of a size are drawn without repetition (the released code may repeat one), all sizes get the
    same number of draws (Algorithm 1 draws the size too), and a player missing at a size is skipped (the released
    division gives NaN).
    """

    slice_sizes: tuple[int, ...]
    coalitions_per_size: int
    aggregation: Literal["paper", "official"] = "paper"
    draws: Draws = "independent"

    def __post_init__(self) -> None:
        object.__setattr__(self, "slice_sizes", checked_sizes(self.slice_sizes))
        if self.aggregation not in ("paper", "official"):
            raise CokvError(f"aggregation = {self.aggregation!r}, expected 'paper' or 'official'")
        checked_draws(self.draws)

    def plan(self, num_players: int, seed: int) -> Plan:
        counts = dict.fromkeys(self.slice_sizes, self.coalitions_per_size)
        return complementary_plan(num_players, seed, counts, self.draws, self.slice_sizes if self._mirror else ())

    @property
    def independent_draws(self) -> bool:
        return self.draws == "independent"

    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        return aggregated(plan, strata_of(plan, utilities, self.slice_sizes, self._mirror), self._scale)

    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        return self._scale * weighted(strata_of(plan, utilities, self.slice_sizes, self._mirror), weights)[0]

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
    draws: Draws = "independent"

    def __post_init__(self) -> None:
        checked_draws(self.draws)

    def plan(self, num_players: int, seed: int) -> Plan:
        n = checked_players(num_players)
        counts = dict.fromkeys(range((n + 1) // 2, n + 1), self.coalitions_per_size)
        return complementary_plan(n, seed, counts, self.draws, range(1, n))

    @property
    def independent_draws(self) -> bool:
        return self.draws == "independent"

    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        return aggregated(plan, strata_of(plan, utilities, range(1, plan.num_players + 1), mirror=True), scale=1)

    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        return weighted(strata_of(plan, utilities, range(1, plan.num_players + 1), mirror=True), weights)[0]
