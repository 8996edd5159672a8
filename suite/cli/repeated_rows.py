"""Rows of a file of predictions that repeat an earlier one, as a run that was started twice leaves them.

They are scored like all others, as the official scripts do, and counted. Does not know which of two rows was meant.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from longbench.predictions import Prediction
from ruler.predictions import Answer


def repeats(rows: Iterable[Prediction | Answer]) -> int:
    """How many rows have the task, length and id of an earlier one; of rows without an id, its whole content."""
    seen: set[Hashable] = set()
    count = 0
    for row in rows:
        key = (row.task, row.length, row.sample_id, None if row.sample_id else (row.prediction, row.references))
        count += key in seen
        seen.add(key)
    return count


def in_words(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each data set that has such rows."""
    return [
        f"{name}: {row['duplicates']} of {row['count']} rows repeat an earlier one (same id, or same content); all are "
        "scored, so take them out if the file holds two runs"
        for name, row in scores.items()
        if row["duplicates"]
    ]
