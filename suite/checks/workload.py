"""How much work the checks are, without doing any: coalitions of every game, and rows of every sample, at most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cokv.game.plan import distinct
from cokv.model.loading import LoadedModel
from cokv.types import CokvError, HeadScores
from suite.checks.context import Context
from suite.checks.games import own_game
from suite.checks.run import ARMS, GAMES
from suite.heads.games import game_spec
from suite.heads.halves import order, plans
from suite.spec import SHAPLEY, Experiment


@dataclass(frozen=True)
class TaskWork:
    """Of one task: prompts that are prefilled for games and for answers, and rows that are decoded for each."""

    game_prompts: int
    game_rows: int
    samples: int
    answer_rows: int


def workload(experiment: Experiment, loaded: LoadedModel) -> dict[str, TaskWork]:
    """By task. Coalitions of the run's own game are not counted again."""
    assert experiment.checks is not None
    shape = loaded.shape
    ranks = np.arange(float(shape.num_layers * shape.num_kv_heads)).reshape(shape.num_layers, -1)
    context = Context(experiment, loaded, {})
    scores = {task: HeadScores(ranks, {"kind": SHAPLEY}) for task in context.tasks}
    context = Context(experiment, loaded, scores)
    known = order(plans(game_spec(experiment), context.num_players))
    coalitions = {own_game(context, task): [known] for task in context.tasks}
    for check in context.spec.run:
        try:
            for game, rows in GAMES[check](context).items() if check in GAMES else ():
                coalitions.setdefault(game, []).append(rows)
        except CokvError:
            continue  # the run says why
    prompts, rows_of = dict.fromkeys(context.tasks, 0), dict.fromkeys(context.tasks, 0)
    for game, parts in coalitions.items():
        new = len(distinct(np.concatenate(parts))[0]) - (len(distinct(known)[0]) if parts[0] is known else 0)
        count = context.spec.samples if game.test else context.game.prompts
        prompts[game.task] += count if new else 0
        rows_of[game.task] += count * new
    arms = {
        task: sum(len(ARMS[check](context, task)) for check in context.spec.run if check in ARMS)
        for task in context.tasks
    }
    samples = context.spec.samples
    return {
        task: TaskWork(prompts[task], rows_of[task], samples if arms[task] else 0, samples * arms[task])
        for task in context.tasks
    }
