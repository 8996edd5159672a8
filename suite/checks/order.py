"""Do two games rank the same players? Their agreement, against how well each agrees with a second run of itself.

Two estimates of one ranking never correlate perfectly, so a low correlation of two games' scores says nothing before it
is compared with the correlation of two runs of one game. With runs 1 and 2 of the games A and B, whose draws are
independent between runs,

    across  = mean of Spearman(A1, B2) and Spearman(B1, A2)
    within  = sqrt(Spearman(A1, A2) * Spearman(B1, B2))
    agreement = across / within,

1 where both games rank the same players, whatever the noise (Spearman's correction for attenuation). Runs of one number
may share coalitions, so A1 is never compared with B1, unless nothing is shared. The interval resamples draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from cokv.game.plan import Estimator, Plan
from cokv.game.stability import draws_by_stratum
from cokv.types import FloatArray
from reports.intervals import bootstrap_p, interval

RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class TwoRuns:
    """Two independent runs of one game: plans, and a utility per row."""

    estimator: Estimator
    plans: tuple[Plan, Plan]
    utilities: tuple[FloatArray, FloatArray]

    def scores(self, run: int) -> FloatArray:
        """[1, num_players]"""
        return self.estimator.aggregate(self.plans[run], self.utilities[run]).values[None]

    def resampled(self, run: int, seed: int) -> FloatArray:
        """[RESAMPLES, num_players], NaN where a resample has no draw of a player. Plans of equal strata and seed are
        resampled alike.
        """
        plan = self.plans[run]
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(run,)))
        weights = np.zeros((RESAMPLES, plan.num_draws))
        for draws in draws_by_stratum(plan):
            weights[:, draws] = generator.multinomial(len(draws), np.full(len(draws), 1 / len(draws)), size=RESAMPLES)
        return self.estimator.resample(plan, self.utilities[run], weights)


def agreement(first: TwoRuns, second: TwoRuns, seed: int, shared: bool = True, bar: float = 0.8) -> dict[str, Any]:
    """score, low and high of the agreement, p of its being at the bar, `across` and `within`; no score where a run has
    no order.

    shared: the runs of one number use the same coalitions. The score is missing, too, where `within` is not positive.
    """
    across, within = _correlations([[game.scores(run) for run in (0, 1)] for game in (first, second)], shared)
    facts: dict[str, Any] = {k: float(v[0]) for k, v in (("across", across), ("within", within)) if np.isfinite(v[0])}
    if not np.isfinite(across[0]) or not within[0] > 0:
        return facts
    runs = [[game.resampled(run, seed) for run in (0, 1)] for game in (first, second)]
    many_across, many_within = _correlations(runs, shared)
    defined = np.isfinite(many_across) & (many_within > 0)
    facts["score"] = float(across[0] / within[0])
    if defined.mean() >= 0.9:
        many = many_across[defined] / many_within[defined]
        facts |= {**interval(many), "p": bootstrap_p(many, bar)}
    return facts


def _correlations(runs: Sequence[Sequence[FloatArray]], shared: bool) -> tuple[FloatArray, FloatArray]:
    """across and within [B] of the runs [game][run], each [B, num_players]."""
    (a1, a2), (b1, b2) = runs
    pairs = [(a1, b2), (b1, a2)] + ([] if shared else [(a1, b1), (a2, b2)])
    across = np.mean([rank_correlation(x, y) for x, y in pairs], axis=0)
    own = rank_correlation(a1, a2), rank_correlation(b1, b2)
    return across, np.sqrt(np.clip(own[0], 0, None) * np.clip(own[1], 0, None))


def rank_correlation(first: FloatArray, second: FloatArray) -> FloatArray:
    """Spearman's correlation [B] of each row [B, num_players]; NaN where a row is constant or has NaN."""
    left, right = (stats.rankdata(x, axis=1, nan_policy="propagate") for x in (first, second))
    left, right = (x - x.mean(axis=1, keepdims=True) for x in (left, right))
    with np.errstate(invalid="ignore"):
        return np.asarray((left * right).sum(axis=1) / np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1)))
