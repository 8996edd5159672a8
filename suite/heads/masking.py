"""Head-masking curves: the score when the k highest, lowest or random heads see only the window, over k.

CoKV (arXiv 2502.17501, experiments) masks heads to show that its scores rank them: masking from the top should lower
the score at once, from the bottom late. A masked head keeps the last `window_size` prompt tokens, as outside a
coalition.

preset="official" masks as nawei1010/CoKV does (adaptive_kv/monkeypatch/kv_utils.py, cokv_mask): "top k" are all heads
with at least the (n - k)-th smallest score, which is k + 1 heads, one too many; "bottom k" all with at most the k-th
smallest; equal scores fall together. It is defined for k = 1..n - 1. "normalized" masks k heads exactly, ties to the
lower index at the top, to the higher one at the bottom. Random heads are nested: each draw is one random order.

A game is a function from coalitions to utilities per sample; recording them is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from cokv.game.plan import BoolArray, distinct
from cokv.types import FloatArray, HeadScores
from reports.intervals import estimate
from suite.errors import SuiteError

Evaluate: TypeAlias = Callable[[BoolArray], FloatArray]
"""Coalitions bool [K, num_players], True keeps the prompt -> utilities [K, samples] of 0..1."""

MOST_POINTS = 33  # of a curve without `counts`


@dataclass(frozen=True)
class MaskingSpec:
    """The points of the curves."""

    counts: tuple[int, ...] | None = None  # heads masked; without it 0 to n, thinned on large models
    draws: int = 3  # random orders
    preset: Literal["normalized", "official"] = "normalized"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in ("normalized", "official"):
            raise SuiteError(f"preset is {self.preset!r}, expected 'normalized' or 'official'")
        if self.seed < 0:
            raise SuiteError(f"seed is {self.seed}, expected 0 or more")
        if self.draws < 1:
            raise SuiteError(f"draws is {self.draws}, expected at least 1 random order")

    def counts_of(self, num_players: int) -> tuple[int, ...]:
        """The counts for a model of `num_players` heads. Raises SuiteError for counts out of range."""
        low, high = (1, num_players - 1) if self.preset == "official" else (0, num_players)
        if self.counts is None:
            points = min(MOST_POINTS, high - low + 1)
            return tuple(sorted({int(k) for k in np.linspace(low, high, points).round()}))
        wrong = [k for k in self.counts if not low <= k <= high]
        if wrong or not self.counts:
            raise SuiteError(
                f"counts are {list(self.counts)}, expected numbers of heads from {low} to {high}"
                + (" (the official rule masks k + 1 heads from the top)" if self.preset == "official" else "")
            )
        return tuple(sorted(set(self.counts)))


Kind: TypeAlias = Literal["top", "bottom", "random"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class Cut:
    """One masked set: `heads` is the k of the curve, `masked` the heads."""

    kind: Kind
    heads: int
    masked: BoolArray  # [num_players]


def cuts(values: FloatArray, spec: MaskingSpec) -> list[Cut]:
    """Every masked set of the curves, for head scores of any shape."""
    flat = values.reshape(-1)
    n = flat.size
    order, rising = np.argsort(-flat, kind="stable"), np.sort(flat)
    rng = np.random.default_rng(spec.seed)
    orders = [rng.permutation(n) for _ in range(spec.draws)]
    masked = []
    for k in spec.counts_of(n):
        if spec.preset == "official":
            masked += [Cut("top", k, flat >= rising[n - k - 1]), Cut("bottom", k, flat <= rising[k - 1])]
        else:
            masked += [Cut("top", k, _mask(order[:k], n)), Cut("bottom", k, _mask(order[n - k :], n))]
        masked += [Cut("random", k, _mask(random_order[:k], n)) for random_order in orders]
    return masked


def _mask(heads: npt.NDArray[np.intp], n: int) -> BoolArray:
    mask = np.zeros(n, dtype=np.bool_)
    mask[heads] = True
    return mask


def coalitions_of(cuts: Sequence[Cut]) -> BoolArray:
    """All heads, then the heads that each cut leaves: bool [1 + cuts, num_players]."""
    return np.array([np.ones_like(cuts[0].masked), *(~cut.masked for cut in cuts)])


def samples_by_cut(cuts: Sequence[Cut], percent: FloatArray) -> dict[tuple[str, int], FloatArray]:
    """Scores [samples] by kind and k, random orders averaged. percent [1 + cuts, samples]: of `coalitions_of(cuts)`."""
    rows: dict[tuple[str, int], list[int]] = {(kind, cut.heads): [] for kind in KINDS for cut in cuts}
    for row, cut in enumerate(cuts, 1):
        rows[cut.kind, cut.heads].append(row)
    return {key: percent[indices].mean(axis=0) for key, indices in rows.items()}


def curves(scores: HeadScores, evaluate: Evaluate, spec: MaskingSpec) -> dict[str, Any]:
    """The curves of one task's scores: points in percent, their areas, and how far apart top and bottom lie.

    Intervals are over samples (reports/intervals.py), random orders averaged first. The separation (area under "bottom"
    minus area under "top") is paired.
    """
    masked_sets = cuts(scores.values, spec)
    rows, inverse = distinct(coalitions_of(masked_sets))
    percent = 100 * evaluate(rows)[inverse]  # [1 + cuts, samples]
    samples = samples_by_cut(masked_sets, percent)
    num_masked: dict[tuple[str, int], int] = {(cut.kind, cut.heads): int(cut.masked.sum()) for cut in masked_sets}
    points = [
        {"cut": kind, "heads": k, "masked": num_masked[kind, k], **estimate([sample])}
        for (kind, k), sample in samples.items()
    ]
    counts = spec.counts_of(scores.values.size)
    lines = {str(kind): np.array([samples[kind, k] for k in counts]) for kind in KINDS}  # [counts, samples]
    return {
        "preset": spec.preset,
        "num_players": scores.values.size,
        "samples": int(percent.shape[1]),
        "draws": spec.draws,
        "seed": spec.seed,
        "evaluations": len(rows),
        "full": estimate([percent[0]]),
        "points": points,
        **_areas(lines, counts),
    }


def _areas(lines: dict[str, FloatArray], counts: tuple[int, ...]) -> dict[str, Any]:
    """Mean height of each curve over k, by trapezoids; empty for a single point."""
    if len(counts) < 2:
        return {}
    widths = np.diff(np.array(counts, dtype=np.float64))
    weights = np.zeros(len(counts))
    weights[:-1] += widths / 2
    weights[1:] += widths / 2
    weights /= widths.sum()
    heights = {kind: weights @ line for kind, line in lines.items()}  # [samples]
    areas = {kind: estimate([sample]) for kind, sample in heights.items()}
    return {"areas": areas, "separation": estimate([heights["bottom"] - heights["top"]], paired=True)}
