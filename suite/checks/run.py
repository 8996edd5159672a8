"""All checks of an experiment's [checks] section, into checks.json of its run folder.

First every game's missing coalitions, then every sample's answers, each with one set of workers; then the rows, which
are computed from what is recorded, so that a run that was killed ends with the same rows as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cokv.cluster import Pool
from cokv.types import CokvError
from suite.checks import bits, masking, methods, profiles, rankings, settings, slices, stability
from suite.checks.answers import Answered, Arm, answer_samples
from suite.checks.context import Context, Row, not_run
from suite.checks.games import Played, Wanted, play
from suite.checks.rules import corrected, rules_as_json
from suite.run.folder import RunFolder
from suite.spec import CHECKS

RECORD = "checks.json"

GAMES: dict[str, Callable[[Context], Wanted]] = {
    "stability": stability.wanted,
    "slices": slices.wanted,
    "masking": masking.wanted,
    "utility": lambda context: rankings.wanted(context, "utility"),
    "first_token": lambda context: rankings.wanted(context, "first_token"),
}
ARMS: dict[str, Callable[[Context, str], dict[str, Arm]]] = {
    "alpha": lambda context, task: settings.arms(context, "alpha", task),
    "window": lambda context, task: settings.arms(context, "window", task),
    "profiles": profiles.arms,
    "bits": bits.arms,
    "first_token": lambda context, task: settings.arms(context, "first_token", task),
}


def run_checks(context: Context, folder: RunFolder, pool: Pool) -> dict[str, Any]:
    """The record: its rows, the rules that decided them, and how large the checks were."""
    wanted: dict[str, Wanted] = {}
    failed: list[Row] = []
    for check in context.spec.run:
        if check in GAMES:
            try:
                wanted[check] = GAMES[check](context)
            except CokvError as error:  # such as a slice size that the model does not have
                failed.append(not_run(check, "Its games", str(error)))
    played = play(context, folder, list(wanted.values()), pool)
    arms: dict[str, dict[str, Arm]] = {task: {} for task in context.tasks}
    refused: dict[str, dict[str, str]] = {task: {} for task in context.tasks}
    for check in context.spec.run:
        for task in context.tasks if check in ARMS else ():
            for name, arm in ARMS[check](context, task).items():
                reason = arm.refusal(context.loaded)
                if reason:
                    refused[task][name] = reason
                else:
                    arms[task][name] = arm
    answered = answer_samples(context, folder, arms, pool, refused)
    rows: list[Row] = []
    for check in CHECKS:
        if check in context.spec.run:
            rows += corrected(_rows(context, check, check in wanted, played, answered))
            rows += [row for row in failed if row["check"] == check]
    return {
        "kind": "checks of claims",
        "model": context.loaded.name,
        "tasks": list(context.tasks),
        "game_tasks": list(context.game_tasks),
        "num_players": context.num_players,
        "settings": {**context.spec.model_dump(mode="json"), "game": context.game.model_dump(mode="json")},
        "rules": rules_as_json(),
        "rows": rows,
    }


def _rows(context: Context, check: str, games: bool, played: Played, answered: Answered) -> list[Row]:
    rows: list[Row] = []
    if games:
        by_game = {"stability": stability.rows, "slices": slices.rows, "masking": masking.rows}
        rows += by_game[check](context, played) if check in by_game else rankings.rows(context, played, check)
    if check in ("alpha", "window", "first_token"):
        rows += settings.rows(context, check, answered)
    if check == "profiles":
        rows += profiles.rows(context, answered)
    if check == "bits":
        rows += bits.rows(context, answered)
    if check == "methods":
        rows += methods.rows(context)
    return rows
