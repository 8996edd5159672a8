"""Head removal: what test samples lose when a share of the heads is masked, by score from either end or at random.

Head masking (masking.py) at one count, with three random draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from cokv.game.plan import BoolArray
from cokv.game.recorded import RecordedGame
from cokv.types import FloatArray
from reports.intervals import estimate
from suite.heads.games import TEST
from suite.heads.masking import Cut, MaskingSpec, coalitions_of, cuts, samples_by_cut
from suite.spec import GameSpec

Play: TypeAlias = Callable[[Mapping[str, BoolArray]], Mapping[str, RecordedGame]]
"""Coalitions by the game's name -> the games, with those on record."""


def removal_cuts(values: FloatArray, spec: GameSpec) -> list[Cut]:
    """The masked sets of head scores [num_players]."""
    count = max(1, round(spec.removal_share * values.size))
    return cuts(values, MaskingSpec(counts=(count,), draws=3, seed=spec.seed))


def removal(play: Play, values: Mapping[str, FloatArray], spec: GameSpec) -> dict[str, list[dict[str, Any]]]:
    """Per task: scores on test samples when heads are cut by SSV, in percent, with intervals over samples.

    values: each task's head scores [num_players].
    """
    masked = {task: removal_cuts(scores, spec) for task, scores in values.items()}
    coalitions = {f"{task}{TEST}": coalitions_of(cuts) for task, cuts in masked.items()}
    percent = {name: 100 * game.utilities(coalitions[name]) for name, game in play(coalitions).items()}
    return {task: _rows(cuts, percent[f"{task}{TEST}"]) for task, cuts in masked.items()}


def _rows(cuts: list[Cut], percent: FloatArray) -> list[dict[str, Any]]:
    """percent: [1 + cuts, samples], the first with all heads."""
    rows = []
    for (kind, heads), sample in samples_by_cut(cuts, percent).items():
        row = {"cut": kind, "heads": heads, "samples": len(sample), "full_score": float(percent[0].mean())}
        rows.append(row | estimate([sample]))
    return rows
