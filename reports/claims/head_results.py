"""Expressions over the head game: agreement of two estimates, and what is left when heads are masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reports.claims.estimates import difference_of_summaries, exact, mean_estimate, summary_estimate
from reports.claims.evidence import Evidence
from reports.claims.parts import NotComparable, Part

CUTS = ("top", "bottom", "random")


def mae_over_bar(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """Mean absolute difference of two estimates of the head scores, over 1/n; the mean over a run's games.

    It falls with every coalition: from fewer than the claim's, a difference that is too large contradicts nothing.
    """
    games = {
        task: np.abs(np.subtract(*entry["runs"])).ravel() / entry["threshold"]
        for task, entry in (evidence.stability or {}).get("tasks", {}).items()
        if len(entry.get("runs") or []) == 2 and entry.get("threshold")
    }
    if not games:
        raise NotComparable("the run has no head scores estimated twice (stability.json)")
    below = sum(values.mean() < 1 for values in games.values())
    heads = len(next(iter(games.values())))
    words = f"{len(games)} game{'s' * (len(games) > 1)} of {heads} heads; below 1/n in {below} of them"
    if all(not values.any() for values in games.values()):
        return [Part(exact(0.0, heads, "heads", "stability.json, two equal estimates"), words)]
    basis = "stability.json, over heads inside games, games alike"
    size, enough = (evidence.stability or {}).get("coalitions_per_size"), arguments["coalitions_per_size"]
    contradicts = isinstance(size, int) and size >= enough
    limit = "" if contradicts else f"from {size or 'an unknown number of'} coalitions per size, not {enough}"
    return [Part(mean_estimate(list(games.values()), "heads", basis), words, True, contradicts, limit)]


def masking_difference(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """Points left with the heads of `than` masked, minus points left with those of `hurts_more` masked, over tasks.

    Rows that say of how many samples they are have intervals for few samples; older ones those of a bootstrap.
    """
    more, less = arguments["hurts_more"], arguments["than"]
    if unknown := {more, less} - set(CUTS):
        raise NotComparable(f"unknown cut {', '.join(sorted(unknown))}; expected {', '.join(CUTS)}")
    rows, heads, masked = [], 0, 0
    stability = evidence.stability or {}
    for entry in stability.get("tasks", {}).values():
        cuts = {row["cut"]: row for row in entry.get("head_removal") or [] if "low" in row and row["score"] is not None}
        if cuts.keys() >= {more, less} and cuts[more]["heads"] == cuts[less]["heads"]:
            rows.append((cuts[less], cuts[more]))
            heads, masked = int(stability["num_players"]), int(cuts[more]["heads"])
    if not rows:
        raise NotComparable("the run masked no heads (head_removal in stability.json)")
    stated = min((row.get("samples") or 0 for pair in rows for row in pair), default=0)
    samples = stated or _removal_samples(evidence)
    if samples is None or samples < 2:
        raise NotComparable("how many samples were answered with heads masked is not on record")
    basis = f"stability.json, intervals of {more} and {less} added up, tasks alike"
    words = f"{len(rows)} task{'s' * (len(rows) > 1)}, {masked} of {heads} heads masked"
    return [Part(difference_of_summaries(rows, samples, not stated, basis), words)]


def _removal_samples(evidence: Evidence) -> int | None:
    """Samples of each task answered with heads masked, as many as asked for or as a task has: where rows do not say."""
    experiment = evidence.spec.get("experiment")
    game = experiment.get("game") if isinstance(experiment, Mapping) else None
    wanted = game.get("removal_samples") if isinstance(game, Mapping) else None
    if not isinstance(wanted, int):
        return None
    return min(
        [wanted, *(len(set(asked)) for asked in evidence.scores.questions.values())] if evidence.scores else [wanted]
    )


def masking_left(evidence: Evidence, arguments: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Part]:
    """Percent of the full score that is left, of the masking check's row with this rule. Older rows have no p, and
    intervals of a bootstrap.
    """
    for row in (evidence.checks or {}).get("rows", []):
        if row.get("rule") == arguments["rule"] and row.get("score") is not None and "low" in row and row["n"] > 1:
            tasks = len(row.get("by_task") or {})
            words = f"{row['what'].removesuffix('?')}, {tasks} tasks" if tasks else row["what"]
            return [Part(summary_estimate(row, row["n"], "p" not in row, "checks.json"), words)]
    raise NotComparable("the run has no such row of the masking check (checks.json)")
