"""All estimators by name, in one place to import from. How they differ in cost and error: benchmarks/estimators.py.

| name | estimates | distinct evaluations |
|---|---|---|
| sliced | SSV over some sizes (CoKV) | 2 per coalition and size |
| complementary | Shapley, stratified over all sizes | 2 per coalition and size, n/2 sizes |
| permutation | Shapley | n - 1 per order, and 2 |
| leave_one_out | U(N) - U(N without i) | n + 1 |
"""

from __future__ import annotations

from cokv.game.leave_one_out import LeaveOneOut
from cokv.game.permutation import PermutationSampling
from cokv.game.plan import Estimate, Estimator, Game, Plan, evaluate, merge_plans
from cokv.game.sliced import ComplementaryContributions, SlicedShapley

ESTIMATORS: dict[str, type[Estimator]] = {
    "sliced": SlicedShapley,
    "complementary": ComplementaryContributions,
    "permutation": PermutationSampling,
    "leave_one_out": LeaveOneOut,
}

__all__ = [
    "ESTIMATORS",
    "ComplementaryContributions",
    "Estimate",
    "Estimator",
    "Game",
    "LeaveOneOut",
    "PermutationSampling",
    "Plan",
    "SlicedShapley",
    "evaluate",
    "merge_plans",
]
