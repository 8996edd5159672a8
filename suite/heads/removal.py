"""Head removal: what test samples lose when a share of the heads is cut, by score from either end or at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from cokv.game.plan import BoolArray
from cokv.game.recorded import RecordedGame
from cokv.types import FloatArray
from suite.heads.games import REMOVAL
from suite.spec import GameSpec

Play: TypeAlias = Callable[[Mapping[str, BoolArray]], Mapping[str, RecordedGame]]
"""Coalitions by the game's name -> the games, with those on record."""


def cuts(values: FloatArray, spec: GameSpec) -> list[tuple[str, int, BoolArray]]:
    """Which heads stay when a share of them is removed: from the top, from the bottom, at random (three draws)."""
    players = len(values)
    count = max(1, round(spec.removal_share * players))
    order = np.argsort(-values, kind="stable")
    rng = np.random.default_rng(spec.seed)
    chosen = [("top", order[:count]), ("bottom", order[-count:])]
    chosen += [("random", rng.permutation(players)[:count]) for _ in range(3)]
    made = []
    for name, removed in chosen:
        members = np.ones(players, dtype=bool)
        members[removed] = False
        made.append((name, count, members))
    return made


def removal(play: Play, values: Mapping[str, FloatArray], spec: GameSpec) -> dict[str, list[dict[str, Any]]]:
    """Per task: scores on test samples when heads are cut by SSV, in percent, with bootstrap intervals over samples.

    values: each task's head scores [num_players].
    """
    made = {task: cuts(scores, spec) for task, scores in values.items()}
    coalitions = {
        f"{task}{REMOVAL}": np.array([np.ones(len(values[task]), dtype=bool), *(members for _, _, members in mine)])
        for task, mine in made.items()
    }
    games = play(coalitions)
    return {
        task: _rows(mine, 100 * games[f"{task}{REMOVAL}"].utilities(coalitions[f"{task}{REMOVAL}"]), spec.seed)
        for task, mine in made.items()
    }


def _rows(made: list[tuple[str, int, BoolArray]], found: FloatArray, seed: int) -> list[dict[str, Any]]:
    """found: percent [1 + cuts, samples], the first with all heads."""
    rows = []
    for name in ("top", "bottom", "random"):
        mine = [found[i + 1] for i, cut in enumerate(made) if cut[0] == name]
        sample = np.mean(mine, axis=0)
        row = {"cut": name, "heads": made[0][1], "score": float(sample.mean()), "full_score": float(found[0].mean())}
        if len(sample) > 1:
            low, high = _interval(sample, seed)
            row |= {"low": low, "high": high}
        rows.append(row)
    return rows


def _interval(sample: FloatArray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean."""
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found = stats.bootstrap((sample,), np.mean, method="percentile", rng=np.random.default_rng(seed))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
