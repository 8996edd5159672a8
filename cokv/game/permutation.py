"""Permutation sampling: Shapley values as mean marginal contributions along random orders of the players.

Paper: Castro, Gomez and Tejada, "Polynomial calculation of the Shapley value based on sampling", 2009; antithetic
pairs (an order and its reverse) as in Mitchell et al., "Sampling Permutations for Shapley Value Estimation", JMLR
2022.

A sampled order's contributions sum to U(N) - U(empty), so efficiency holds exactly at any number of draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cokv.game.plan import Estimate, Estimator, Plan, checked_players, checked_utilities
from cokv.types import CokvError, FloatArray


@dataclass(frozen=True)
class PermutationSampling(Estimator):
    """Mean marginal contribution over `permutations` orders; with `antithetic`, every second order is the reverse
    of the one before it.
    """

    permutations: int
    antithetic: bool = False

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise CokvError(f"permutations = {self.permutations}, expected at least 1")
        if self.antithetic and self.permutations % 2:
            raise CokvError(f"permutations = {self.permutations} with antithetic pairs, expected an even number")

    def plan(self, num_players: int, seed: int) -> Plan:
        """Per order, the growing coalition from empty to all: n + 1 rows."""
        n = checked_players(num_players)
        generator = np.random.default_rng(seed)
        pair = 2 if self.antithetic else 1
        forward_orders = [generator.permutation(n) for _ in range(self.permutations // pair)]
        orders = [order for forward in forward_orders for order in (forward, forward[::-1])[:pair]]
        position = np.argsort(np.stack(orders), axis=1)  # [P, n] when each player joins
        grown = position[:, None, :] < np.arange(n + 1)[:, None]  # [P, n + 1, n]
        return Plan(
            coalitions=grown.reshape(-1, n),
            stratum=np.zeros(len(orders) * (n + 1), dtype=np.int64),
            draw=np.repeat(np.arange(len(orders)) // pair, n + 1),
        )

    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        draws = self._draw_means(plan, utilities)
        spread = draws.std(axis=0, ddof=1) if len(draws) > 1 else np.full(plan.num_players, np.nan)
        orders = len(plan.coalitions) // (plan.num_players + 1)
        return Estimate(
            values=draws.mean(axis=0),
            standard_error=spread / np.sqrt(len(draws)),
            counts=np.full(plan.num_players, orders, dtype=np.int64),
            evaluations=plan.evaluations,
            missing=np.zeros(plan.num_players, dtype=np.int64),
        )

    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            return np.asarray(weights @ self._draw_means(plan, utilities) / weights.sum(axis=1, keepdims=True))

    def _draw_means(self, plan: Plan, utilities: FloatArray) -> FloatArray:
        """Marginal contribution of each player per draw (an order, or an antithetic pair): [num_draws, n]."""
        n = plan.num_players
        values = checked_utilities(utilities, len(plan.coalitions))
        if len(plan.coalitions) % (n + 1):
            raise CokvError(f"plan: {len(plan.coalitions)} rows, expected {n + 1} per order; use this estimator's plan")
        grown = plan.coalitions.reshape(-1, n + 1, n)
        joined = grown[:, 1:] & ~grown[:, :-1]  # [P, step, player]
        if np.any(joined.sum(axis=2) != 1) or grown[:, 0].any():
            raise CokvError("plan: rows do not grow by one player from the empty coalition; use this estimator's plan")
        steps = np.diff(values.reshape(-1, n + 1), axis=1)
        marginal = np.einsum("ps,psn->pn", steps, joined)
        draw = plan.draw[:: n + 1]
        totals = np.zeros((plan.num_draws, n))
        np.add.at(totals, draw, marginal)
        return totals / np.bincount(draw, minlength=plan.num_draws)[:, None]
