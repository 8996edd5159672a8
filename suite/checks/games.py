"""The games of the checks: every coalition that any check needs, evaluated once and kept in the game's own ledger.

A task's own game, the run's, is continued, not begun again. Other games are on the same prompts with another utility or
first token, or on test samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from cokv.cluster import InProcess, Pool, Worker
from cokv.decode.session import FirstToken
from cokv.game.plan import BoolArray, Estimator, Plan, distinct
from cokv.game.recorded import RecordedGame
from cokv.game.utility import HeadGame, Utility
from cokv.model.loading import LoadedModel
from cokv.types import FloatArray
from suite.checks.context import Context, samples_of
from suite.checks.order import TwoRuns
from suite.heads.block_evaluation import evaluate_games, show_progress
from suite.heads.games import TEST, game_of, game_spec, load_on, one_game_at_a_time, open_game
from suite.run.folder import RunFolder
from suite.run.progress import progress
from suite.run.workers import size
from suite.spec import Experiment, GameSpec
from suite.tasks.benchmarks import validation_prompts
from suite.tasks.prompt import Prompt


@dataclass(frozen=True)
class CheckGame:
    """One game. test: over the test samples that the checks answer, not over the validation prompts."""

    task: str
    utility: Utility
    first_token: FirstToken
    test: bool = False

    def spec(self, experiment: Experiment) -> GameSpec:
        return game_spec(experiment).model_copy(update={"utility": self.utility, "first_token": self.first_token})

    def prompts(self, experiment: Experiment, loaded: LoadedModel) -> list[Prompt]:
        if self.test:
            return samples_of(experiment, loaded, self.task)
        return list(validation_prompts(experiment, loaded, self.task, game_spec(experiment).prompts))

    def name(self, experiment: Experiment) -> str:
        """The run's own game is named as its task."""
        own = game_spec(experiment)
        if not self.test and (self.utility, self.first_token) == (own.utility, own.first_token):
            return self.task
        return f"{self.task}/{self.utility}/{self.first_token}{TEST if self.test else ''}"


def own_game(context: Context, task: str) -> CheckGame:
    """The run's game of a task."""
    return CheckGame(task, context.game.utility, context.game.first_token)


def two_runs(played: Played, game: CheckGame, method: Estimator, halves: tuple[Plan, Plan]) -> TwoRuns:
    """Two runs of one game whose plans have been played."""
    first, second = (played.means(game, plan.coalitions) for plan in halves)
    return TwoRuns(method, halves, (first, second))


Wanted: TypeAlias = Mapping[CheckGame, BoolArray]
"""By game, the coalitions [K, num_players] that a check reads."""


@dataclass(frozen=True)
class CheckGamesWorker:
    """Makes a worker, which plays one game at a time. games: by name. processes: that share a machine's memory."""

    experiment: Experiment
    games: Mapping[str, CheckGame]
    processes: int = 1

    def __call__(self, device: str) -> Worker:
        return self.on(load_on(self.experiment, device))

    def on(self, loaded: LoadedModel) -> Worker:
        def game(name: str) -> HeadGame:
            named = self.games[name]
            prompts = named.prompts(self.experiment, loaded)
            return game_of(loaded, prompts, named.spec(self.experiment), self.processes)

        return one_game_at_a_time(game)


class Played:
    """Utilities of the coalitions on record."""

    def __init__(self, experiment: Experiment, games: Mapping[str, RecordedGame]) -> None:
        self.experiment, self.games = experiment, games

    def per_prompt(self, game: CheckGame, coalitions: BoolArray) -> FloatArray:
        """[K, prompts]"""
        return self.games[game.name(self.experiment)].utilities(coalitions)

    def means(self, game: CheckGame, coalitions: BoolArray) -> FloatArray:
        """[K]"""
        return np.asarray(self.per_prompt(game, coalitions).mean(axis=1))


def play(context: Context, folder: RunFolder, wanted: list[Wanted], pool: Pool) -> Played:
    """Evaluates what is missing of all checks' coalitions, with one set of workers, and returns them all."""
    experiment, loaded = context.experiment, context.loaded
    coalitions: dict[CheckGame, list[BoolArray]] = {}
    for games in wanted:
        for game, rows in games.items():
            coalitions.setdefault(game, []).append(rows)
    merged = {game: distinct(np.concatenate(rows))[0] for game, rows in coalitions.items()}
    names = {game.name(experiment): game for game in merged}
    worker = CheckGamesWorker(experiment, names, size(pool))
    total = sum(map(len, merged.values()))
    with ExitStack() as opened, progress("checks: games", total) as report:
        recorded = {}
        for name, game in names.items():
            prompts, spec = game.prompts(experiment, loaded), game.spec(experiment)
            game_file = open_game(folder.path.parent, name, loaded, experiment.model.device, prompts, spec)
            _, recorded[name] = opened.enter_context(game_file)
        evaluate_games(
            {name: (recorded[name], merged[game]) for name, game in names.items()},
            pool,
            (lambda _: worker.on(loaded)) if isinstance(pool, InProcess) else worker,
            lambda _: show_progress(report.advance),
            context.game.block_size,
        )
        for of_record in recorded.values():  # reads the rows before the file is closed
            of_record.known(np.zeros((1, context.num_players), dtype=np.bool_))
    return Played(experiment, recorded)
