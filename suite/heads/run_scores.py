"""The head scores in a run folder, one file per task: of the game and the tasks that are asked for, and no others.

All of it follows from the games' ledgers. What was made with scores that have changed since, curves of masked heads and
the transfer matrix, is taken out too: a report must not show it beside the new ones.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cokv.types import CokvError, HeadScores
from suite.errors import SuiteError
from suite.run.folder import RunFolder

SCORES, STABILITY = "head_scores", "stability.json"
MASKING, TRANSFER = "masking.json", "transfer.json"


def scores_file(folder: RunFolder, task: str) -> Path:
    return folder.path / SCORES / f"{task}.safetensors"


def store_scores(folder: RunFolder, scores: Mapping[str, HeadScores]) -> None:
    """Writes the head scores by task, and removes those of other tasks; without any, stability.json too."""
    stored = {file.stem: file for file in (folder.path / SCORES).glob("*.safetensors")}
    changed = {task for task in stored if task not in scores}
    for task, file in stored.items():
        if task in scores and not _same(file, scores[task]):
            changed.add(task)
    if changed:
        _take_out(folder, changed)
    for task in stored.keys() - scores.keys():
        stored[task].unlink()
    for task, of_task in scores.items():
        of_task.save(scores_file(folder, task))
    if not scores:
        (folder.path / STABILITY).unlink(missing_ok=True)


def _same(file: Path, scores: HeadScores) -> bool:
    try:
        return np.array_equal(HeadScores.load(file).values, scores.values)
    except CokvError:  # damaged: it is written again
        return False


def _object(folder: RunFolder, name: str) -> dict[str, Any]:
    """A JSON file of the run; empty where there is none."""
    value = folder.read(name)
    if not isinstance(value, dict | None):
        raise SuiteError(f"{folder.path / name}: expected a JSON object; delete that file and run again")
    return value or {}


def _take_out(folder: RunFolder, changed: set[str]) -> None:
    """Curves and matrices made with head scores of these tasks that are no longer the run's."""
    removed = []
    masking, transfer = _object(folder, MASKING), _object(folder, TRANSFER)
    curves = masking.get("curves", [])
    current = [curve for curve in curves if curve.get("scores") != "run" or curve.get("task") not in changed]
    if len(current) < len(curves):
        folder.write(MASKING, {**masking, "curves": current})
        removed.append("masking")
    if changed & set(transfer.get("sources", [])):
        (folder.path / TRANSFER).unlink()
        removed.append("transfer")
    if removed:
        commands = " and ".join(f"`cokv heads {name}`" for name in removed)
        print(f"{folder.path.name}: head scores have changed; run {commands} again", file=sys.stderr)
