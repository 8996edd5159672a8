"""Which samples head scores may be computed on (validation) and which they are judged on (test).

The split depends on the seed, the data set and the sample's id alone: not on file order, not on a random generator.
The published codes shuffle by position, so that a re-ordered file leaks test samples into the scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from longbench.errors import LongBenchError


@dataclass(frozen=True)
class Split:
    """Ids of both parts, each in ascending order of its hash."""

    dataset: str
    seed: int
    validation_share: float
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_ids(dataset: str, ids: Iterable[str], *, seed: int = 0, validation_share: float = 0.15) -> Split:
    """`validation_share` of the ids, rounded, and at least one, goes to validation; at least one stays for test."""
    names = list(ids)
    if not 0.0 < validation_share < 1.0:
        raise LongBenchError(f"got validation_share {validation_share}, expected a share between 0 and 1")
    if len(set(names)) != len(names):
        raise LongBenchError(f"{dataset}: got {len(names) - len(set(names))} repeated ids, expected unique ones")
    if len(names) < 2:
        raise LongBenchError(f"{dataset}: got {len(names)} samples, expected at least 2 to split")
    ranked = sorted(names, key=lambda name: (_rank(dataset, name, seed), name))
    count = validation_count(len(names), validation_share)
    return Split(dataset, seed, validation_share, tuple(ranked[:count]), tuple(ranked[count:]))


def validation_count(samples: int, validation_share: float) -> int:
    """How many of at least two samples go to validation."""
    return min(max(round(validation_share * samples), 1), samples - 1)


def _rank(dataset: str, sample_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\n{dataset}\n{sample_id}".encode()).hexdigest()
