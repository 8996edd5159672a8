"""Scores whose mean is known, to draw few samples from: right or wrong answers, and F1-like ones with zeros and ones.

Two methods on the same samples are correlated by a Gaussian copula: an easy sample is easy for both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from reports.intervals import Floats


@lru_cache
def _quantiles(a: float, b: float) -> tuple[Floats, Floats]:
    """Probabilities and a Beta variable's quantiles at them, to interpolate: the inverse itself is slow."""
    grid = np.linspace(0, 1, 20_001)
    return grid, np.asarray(special.betaincinv(a, b, grid))


@dataclass(frozen=True)
class Scores:
    """0 with probability `zero`, 100 with probability `full`, else 100 times a Beta variable with these parameters."""

    zero: float
    full: float
    beta: tuple[float, float] = (1.0, 1.0)

    @property
    def mean(self) -> float:
        a, b = self.beta
        return 100 * (self.full + (1 - self.zero - self.full) * a / (a + b))

    def at(self, uniform: Floats) -> Floats:
        """Quantiles, in percent, of the shape of `uniform`."""
        out = np.where(uniform < self.zero, 0.0, 100.0)
        inner = (uniform >= self.zero) & (uniform < 1 - self.full)
        share = (uniform[inner] - self.zero) / (1 - self.zero - self.full)
        out[inner] = 100 * np.interp(share, *_quantiles(*self.beta))
        return np.asarray(out)


def binary(p: float) -> Scores:
    return Scores(1 - p, p)


BINARY: Mapping[str, Scores] = {
    f"binary {p:g}": binary(p)
    for p in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
}
F1_LIKE: Mapping[str, Scores] = {
    "half 0, else Beta(2, 3)": Scores(0.5, 0, (2, 3)),
    "0.9 of 0, else Beta(2, 3)": Scores(0.9, 0, (2, 3)),
    "0.6 of 100, else Beta(2, 3)": Scores(0, 0.6, (2, 3)),
    "0.9 of 100, else Beta(2, 3)": Scores(0, 0.9, (2, 3)),
    "0.2 of 0, 0.2 of 100, else Beta(2, 3)": Scores(0.2, 0.2, (2, 3)),
    "0.8 of 0, 0.1 of 100, else Beta(2, 3)": Scores(0.8, 0.1, (2, 3)),
    "Beta(6, 14)": Scores(0, 0, (6, 14)),
    "Beta(2, 8)": Scores(0, 0, (2, 8)),
    "Beta(8, 2)": Scores(0, 0, (8, 2)),
    "Beta(5, 1)": Scores(0, 0, (5, 1)),
    "Beta(0.5, 0.5)": Scores(0, 0, (0.5, 0.5)),
}
ALL: Mapping[str, Scores] = {**BINARY, **F1_LIKE}

_NAMES = list(F1_LIKE)
PAIRS: Mapping[str, tuple[Scores, Scores]] = {
    **{
        f"binary {p:g} and {q:g}": (binary(p), binary(q))
        for p, q in (
            (0.5, 0.5), (0.9, 0.9), (0.1, 0.1), (0.98, 0.98), (0.9, 0.6), (0.5, 0.3), (0.99, 0.9), (0.05, 0.02),
            (0.95, 0.1), (1, 0.95), (1, 0.8),
        )
    },
    **{f"twice {name}": (scores, scores) for name, scores in F1_LIKE.items()},
    **{f"{one}; {other}": (F1_LIKE[one], F1_LIKE[other]) for one, other in itertools.pairwise(_NAMES)},
}  # fmt: skip


def tasks_of(number: int) -> dict[str, list[Scores]]:
    """Benchmarks of `number` tasks: all alike, spread over the scale, or nearly certain with an exception."""
    mixed = [F1_LIKE[name] for name in _NAMES]
    return {
        **{f"all {name}": [scores] * number for name, scores in ALL.items()},
        "all binary 0.005": [binary(0.005)] * number,
        "binary, spread from 0.02 to 0.98": [binary(float(p)) for p in np.linspace(0.02, 0.98, number)],
        "binary 0.99, one of 0.5": [binary(0.99)] * (number - 1) + [binary(0.5)],
        "binary 0.99 and 0.01 in turn": [binary(0.01 if place % 2 else 0.99) for place in range(number)],
        "F1-like, mixed": [mixed[place % len(mixed)] for place in range(number)],
    }


def two_uniforms(rng: np.random.Generator, shape: tuple[int, ...], correlation: float) -> tuple[Floats, Floats]:
    """Of two methods on the same samples; correlation: of the normal variables behind them."""
    ease = correlation**0.5 * rng.standard_normal(shape)
    own = (1 - correlation) ** 0.5
    first, second = (special.ndtr(ease + own * rng.standard_normal(shape)) for _ in range(2))
    return np.asarray(first), np.asarray(second)


def many_uniforms(rng: np.random.Generator, methods: int, budgets: int, n: int, correlation: float) -> Floats:
    """[methods, budgets, n] on the same n samples; a method's budgets share half of what is its own."""
    ease = correlation**0.5 * rng.standard_normal((1, 1, n))
    own = rng.standard_normal((methods, 1, n)) + rng.standard_normal((methods, budgets, n))
    return np.asarray(special.ndtr(ease + ((1 - correlation) / 2) ** 0.5 * own))
