"""All estimators by name, in one place to import from. How they differ in cost and error: benchmarks/estimators.py.

| name | estimates | distinct evaluations |
|---|---|---|
| sliced | SSV over some sizes (CoKV) | 2 per coalition and size |
| adjusted | SSV, its linear part known | 2 per coalition and size |
| adaptive | SSV, more draws where they vary more | 2 per coalition and size |
| complementary | Shapley, stratified over all sizes | 2 per coalition and size, n/2 sizes |
| permutation | Shapley | n - 1 per order, and 2 |
| leave_one_out | U(N) - U(N without i) | n + 1 |
"""

from __future__ import annotations

from cokv.game.adaptive import AdaptiveSlicedShapley
from cokv.game.adjusted import AdjustedSlicedShapley
from cokv.game.leave_one_out import LeaveOneOut
from cokv.game.permutation import PermutationSampling
from cokv.game.plan import Estimator
from cokv.game.sliced import ComplementaryContributions, SlicedShapley

ESTIMATORS: dict[str, type[Estimator]] = {
    "sliced": SlicedShapley,
    "adjusted": AdjustedSlicedShapley,
    "adaptive": AdaptiveSlicedShapley,
    "complementary": ComplementaryContributions,
    "permutation": PermutationSampling,
    "leave_one_out": LeaveOneOut,
}

__all__ = [
    "ESTIMATORS",
    "AdaptiveSlicedShapley",
    "AdjustedSlicedShapley",
    "ComplementaryContributions",
    "LeaveOneOut",
    "PermutationSampling",
    "SlicedShapley",
]
