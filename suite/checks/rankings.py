"""Checks 8 and 9: do games of another utility, or with the first answer token from another cache, rank the same heads?

All games are on the same validation prompts with the same coalitions. CoKV's utility is the task's metric; the
teacher-forced ones, exact match and probability, cost one forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from cokv.types import CokvError
from suite.checks.context import Context, Row, not_run
from suite.checks.games import CheckGame, Played, Wanted, two_runs
from suite.checks.order import agreement
from suite.checks.rules import judged_order
from suite.heads.halves import estimator, order, plans
from suite.tasks.benchmarks import validation_prompts

UTILITY, FIRST_TOKEN = "utility", "first_token"
UTILITIES = {"metric": "task metric", "exact_match": "exact match", "probability": "probability"}
CACHES = {"prefill": "uncompressed prefill", "compressed": "compressed cache"}


def _games(context: Context, check: str, task: str) -> dict[CheckGame, str]:
    """The games that are compared, with what differs, in words."""
    spec = context.game
    if check == UTILITY:
        forced = _has_answers(context, task)
        return {
            CheckGame(task, utility, spec.first_token): words  # type: ignore[arg-type]
            for utility, words in UTILITIES.items()
            if forced or utility == "metric"
        }
    return {CheckGame(task, spec.utility, cache): f"the {words}" for cache, words in CACHES.items()}  # type: ignore[arg-type]


def _has_answers(context: Context, task: str) -> bool:
    """Whether the benchmark gives a full answer, which teacher forcing needs."""
    prompts = validation_prompts(context.experiment, context.loaded, task, context.game.prompts)
    return all(prompt.gold is not None for prompt in prompts)


def wanted(context: Context, check: str) -> Wanted:
    coalitions = order(plans(context.game_of(check), context.num_players))
    return {
        game: coalitions
        for task in context.game_tasks
        for games in [_games(context, check, task)]
        if len(games) > 1
        for game in games
    }


def rows(context: Context, played: Played, check: str) -> list[Row]:
    return [row for task in context.game_tasks for row in _rows(context, played, check, task)]


def _rows(context: Context, played: Played, check: str, task: str) -> Iterator[Row]:
    spec = context.game_of(check)
    halves, method = plans(spec, context.num_players), estimator(spec, context.num_players)
    games = _games(context, check, task)
    if len(games) < 2:
        yield not_run(check, "Do the utilities rank the same heads?", "its prompts have no full answer to force", task)
    for (first, one), (second, other) in itertools.combinations(games.items(), 2):
        subject = "First token from " if check == FIRST_TOKEN else ""
        what = f"{subject}{one} and {other}: the same order of heads?"
        try:
            pair = [two_runs(played, game, method, halves) for game in (first, second)]
            result = agreement(pair[0], pair[1], context.spec.seed)
        except CokvError as error:  # a player never drawn
            yield not_run(check, what, str(error), task)
            continue
        facts = {"check": check, "task": task, "what": what, "of": "heads"}
        coalitions = sum(plan.evaluations for plan in halves)
        yield {**facts, **result, **judged_order(result, context.num_players), "coalitions": coalitions}
