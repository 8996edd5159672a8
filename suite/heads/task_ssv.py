"""SSV of one task: its head game evaluated until complete or until a stop rule holds, and the scores as files.

The game's folder (game_folder.py) holds the ledger, which `cokv reproduce` shares, and the newest scores of this
command. The number of coalitions, the seed and the stop rules are no part of the game's identity: a longer run adds to
the same ledger.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cokv.cluster import InProcess, Pool
from cokv.game.plan import alternating_rows, distinct, merge_plans
from cokv.game.recorded import RecordedGame
from cokv.game.stopping import GameState, StopRules, live_state
from cokv.model.loading import load_model
from cokv.types import CokvError, HeadScores
from suite.errors import SuiteError
from suite.heads.block_evaluation import evaluate_games
from suite.heads.games import GamesWorker, game_spec, num_players, open_game
from suite.heads.halves import Halves, design, estimator, plans, seeds
from suite.heads.ledger_scores import score_halves
from suite.heads.score_provenance import as_json, head_scores
from suite.run.preflight import check_fit
from suite.run.progress import Reporter, progress
from suite.spec import Experiment
from suite.tasks.benchmarks import task_names, validation_prompts

SCORES, READABLE = "ssv.safetensors", "ssv.json"
DONE = "all planned coalitions are evaluated"


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task, their folder, and why the evaluation ended."""

    folder: Path
    scores: HeadScores
    stopped: str


def profile_ssv(experiment: Experiment, task: str, runs: Path, pool: Pool, rules: StopRules) -> TaskScores:
    """Sliced Shapley values of every KV head on one task's validation prompts, from two independent halves.

    Every block is in the ledger before the next one begins: after a kill the same call continues.
    """
    tasks = task_names(experiment)
    if task not in tasks:
        raise SuiteError(f"task {task!r} is not in experiment {experiment.name!r}; expected one of {', '.join(tasks)}")
    spec, in_process = game_spec(experiment), isinstance(pool, InProcess)
    if rules.mae and spec.utility == "log_likelihood":
        raise SuiteError("the MAE rule is for utilities between 0 and 1, not for log_likelihood; use --reliability")
    model = experiment.model
    device = model.device if in_process else "cpu"
    loaded = load_model(model.name, model.revision, device, model.dtype, model.positions)
    check_fit(experiment.model_copy(update={"game": None}), loaded)
    players = num_players(loaded, spec)
    halves = plans(spec, players)
    for half in halves:  # aggregate raises where a player is never drawn
        estimator(spec, players).aggregate(half, np.zeros(len(half.coalitions)))
    prompts = list(validation_prompts(experiment, loaded, task, spec.prompts))
    opened = open_game(runs, task, loaded, model.device, prompts, spec)
    make_worker = GamesWorker(experiment).for_pool(pool, loaded)
    del loaded  # workers in other processes load it themselves

    with opened as (folder, game):
        game.add_design(design(estimator(spec, players), seeds(spec)))
        with progress(f"profile {task}", merge_plans(halves).evaluations) as report:
            watch = StoppingWatch(game, experiment, halves, rules, report)
            evaluate_games({task: (game, watch.coalitions)}, pool, make_worker, lambda _: watch, spec.block_size)
        scores = _scores(game, experiment, watch)
        scores.save(folder.path / SCORES)
        folder.write(READABLE, as_json(scores))
    return TaskScores(folder.path, scores, watch.stopped)


def _scores(game: RecordedGame, experiment: Experiment, watch: StoppingWatch) -> HeadScores:
    spec = game_spec(experiment)
    try:
        scores = score_halves(estimator(spec, game.num_players), watch.halves, watch.utilities(), spec.seed, game)
    except (CokvError, SuiteError) as error:
        raise SuiteError(
            f"stopped after {watch.evaluated} coalitions ({watch.stopped}), too early for a score of every head: "
            f"{error}"
        ) from None
    model = experiment.model
    return head_scores(
        game,
        scores,
        model={"name": model.name, "revision": model.revision},
        seeds=list(seeds(spec)),
        planned_draws=[plan.num_draws for plan in watch.halves],
        coalitions=watch.evaluated,
        planned_coalitions=watch.total,
        stopped=watch.stopped,
    )


class StoppingWatch:
    """The watch of a game under evaluation: shows progress and accuracy, and applies the stop rules to every prefix."""

    def __init__(
        self, game: RecordedGame, experiment: Experiment, halves: Halves, rules: StopRules, report: Reporter
    ) -> None:
        self.game, self.halves, self.rules, self.report = game, halves, rules, report
        self.spec = game_spec(experiment)
        merged = merge_plans(halves).coalitions
        order = alternating_rows(halves)
        self.coalitions = merged[order]
        self.rows, inverse = distinct(self.coalitions)
        self.row_of = np.empty(len(merged), dtype=np.int64)  # index in `rows` of each row of the merged plan
        self.row_of[order] = inverse
        self.values = np.full(len(self.rows), np.nan)  # mean over prompts
        self.evaluated, self.total, self.recorded_before = 0, len(self.rows), len(game)
        self.start = self.last_shown = time.monotonic()
        self.stopped = DONE

    def utilities(self) -> tuple[np.ndarray, np.ndarray]:
        """Per row of each half, the mean over prompts; NaN outside the prefix."""
        merged, first_half = self.values[self.row_of], len(self.halves[0].coalitions)
        return merged[:first_half], merged[first_half:]

    def __call__(self, evaluated: int) -> bool:
        new = slice(self.evaluated, evaluated)
        self.values[new] = self.game.utilities(self.rows[new]).mean(axis=1)
        advanced, self.evaluated = evaluated - self.evaluated, evaluated
        now = time.monotonic()
        if not self._due(now):
            self.report.advance(advanced)
            return False
        self.last_shown = now
        state = live_state(
            estimator(self.spec, self.game.num_players),
            self.halves,
            self.utilities(),
            now - self.start,
            fresh=len(self.game) - self.recorded_before,
            seed=self.spec.seed,
        )
        self.report.advance(advanced, _note(state))
        reason = self.rules.verdict(state)
        if reason is not None and evaluated < self.total:
            self.stopped = reason
            return True
        return False

    def _due(self, now: float) -> bool:
        """Whether to compute a state: when a rule could stop, and once a second to show it."""
        rules = self.rules
        return (
            rules.mae
            or rules.reliability is not None
            or self.evaluated == self.total
            or now - self.last_shown > 1
            or (rules.evaluations is not None and self.evaluated >= rules.evaluations)
            or (rules.minutes is not None and now - self.start >= 60 * rules.minutes)
        )


def _note(state: GameState) -> str:
    """The accuracy of the scores so far, for one line of progress."""
    if state.mae is None:
        return ""
    note = f"MAE {state.mae:.4f} (1/n {state.threshold:.4f})"
    return note if state.reliability is None else f"{note}, reliability {state.reliability:.2f}"
