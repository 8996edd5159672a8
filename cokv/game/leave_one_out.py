"""Leave-one-out: the loss when a single player leaves the grand coalition, U(N) - U(N without i).

n + 1 evaluations and nothing random, but blind to substitutes: two players that can replace each other both score 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cokv.game.plan import Estimate, Estimator, Plan, checked_players, checked_utilities
from cokv.types import CokvError, FloatArray


@dataclass(frozen=True)
class LeaveOneOut(Estimator):
    """U(N) - U(N without i). The seed is not used: there is one plan."""

    def plan(self, num_players: int, seed: int) -> Plan:
        n = checked_players(num_players)
        rows = np.concatenate([np.ones((1, n), dtype=np.bool_), ~np.eye(n, dtype=np.bool_)])
        return Plan(coalitions=rows, stratum=np.zeros(n + 1, dtype=np.int64), draw=np.zeros(n + 1, dtype=np.int64))

    def aggregate(self, plan: Plan, utilities: FloatArray) -> Estimate:
        n = plan.num_players
        return Estimate(
            values=self._values(plan, utilities),
            standard_error=np.zeros(n),
            counts=np.ones(n, dtype=np.int64),
            evaluations=plan.evaluations,
            missing=np.zeros(n, dtype=np.int64),
        )

    def resample(self, plan: Plan, utilities: FloatArray, weights: FloatArray) -> FloatArray:
        return np.where(weights > 0, self._values(plan, utilities), np.nan)

    def _values(self, plan: Plan, utilities: FloatArray) -> FloatArray:
        values = checked_utilities(utilities, len(plan.coalitions))
        if not np.array_equal(plan.coalitions, self.plan(plan.num_players, seed=0).coalitions):
            raise CokvError("plan: rows are not N followed by N without each player; use a plan of this estimator")
        return np.asarray(values[0] - values[1:])
