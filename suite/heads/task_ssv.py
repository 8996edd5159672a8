"""The profile of one task: its head game evaluated until done or good enough, and the scores written down.

`runs/profiles/<experiment>-<task>-<hash8>/` holds `spec.json` (the game's identity, which the hash covers), the
ledger, and the newest scores. How many coalitions, which seed and when to stop are no part of the identity: asking for
more adds to the same ledger.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cokv.cluster import InProcess, Pool
from cokv.game.ledger import Ledger
from cokv.game.plan import distinct, in_turn, merge_plans
from cokv.game.recorded import RecordedGame
from cokv.game.stopping import GameState, StopRules, live_state
from cokv.model.loading import load_model
from cokv.types import CokvError, HeadScores
from suite.errors import SuiteError
from suite.heads.block_evaluation import evaluate_games
from suite.heads.games import GamesWorker, game_spec, identity, num_players
from suite.heads.halves import Halves, design, estimator, plans, seeds
from suite.heads.ledger_scores import score_halves
from suite.heads.score_provenance import as_json, head_scores
from suite.run.folder import RunFolder
from suite.run.preflight import check_fit
from suite.run.progress import Reporter, progress
from suite.spec import Experiment
from suite.tasks.benchmarks import task_names, validation_prompts

LEDGER, SCORES, READABLE = "game.sqlite", "ssv.safetensors", "ssv.json"
DONE = "all planned coalitions are evaluated"


@dataclass(frozen=True)
class Profile:
    """What `profile_ssv` made. `stopped`: why it ended."""

    folder: Path
    scores: HeadScores
    stopped: str


def profile_ssv(experiment: Experiment, task: str, runs: Path, pool: Pool, rules: StopRules) -> Profile:
    """Sliced Shapley values of every KV head on one task's validation prompts, from two independent halves.

    Everything evaluated is in the ledger before the next block begins: the same call goes on after a kill.
    """
    known = task_names(experiment)
    if task not in known:
        raise SuiteError(f"task {task!r} is not in experiment {experiment.name!r}; expected one of {', '.join(known)}")
    spec, here = game_spec(experiment), isinstance(pool, InProcess)
    if rules.mae and spec.utility == "log_likelihood":
        raise SuiteError("the MAE rule is for utilities between 0 and 1, not for log_likelihood; use --reliability")
    model = experiment.model
    loaded = load_model(model.name, model.revision, model.device if here else "cpu", model.dtype)
    check_fit(experiment.model_copy(update={"game": None}), loaded)
    players = num_players(loaded, spec)
    halves = plans(spec, players)
    for half in halves:  # its aggregate says when a player is never drawn
        estimator(spec).aggregate(half, np.zeros(len(half.coalitions)))
    prompts = list(validation_prompts(experiment, loaded, task, spec.prompts))
    game_is = identity(loaded, model.device, prompts, spec)
    make_worker = GamesWorker(experiment).for_pool(pool, loaded)
    del loaded  # workers elsewhere have their own

    folder = RunFolder(runs / "profiles", f"{experiment.name}-{task}", game_is)
    folder.open()
    with folder.lock(), Ledger(folder.path / LEDGER) as ledger:
        game = ledger.game(task, game_is, players, len(prompts))
        game.add_design(design(estimator(spec), seeds(spec)))
        with progress(f"profile {task}", merge_plans(halves).evaluations) as report:
            live = StoppingWatch(game, experiment, halves, rules, report)
            evaluate_games({task: (game, live.coalitions)}, pool, make_worker, lambda _: live, spec.block_size)
        scores = _scores(game, experiment, live)
        scores.save(folder.path / SCORES)
        folder.write(READABLE, as_json(scores))
    return Profile(folder.path, scores, live.stopped)


def _scores(game: RecordedGame, experiment: Experiment, live: StoppingWatch) -> HeadScores:
    spec = game_spec(experiment)
    try:
        found = score_halves(estimator(spec), live.halves, live.utilities(), spec.seed)
    except (CokvError, SuiteError) as error:
        raise SuiteError(
            f"stopped after {live.there} coalitions ({live.stopped}), too early for a score of every head: {error}"
        ) from None
    model = experiment.model
    return head_scores(
        game,
        found,
        model={"name": model.name, "revision": model.revision},
        seeds=list(seeds(spec)),
        planned_draws=[plan.num_draws for plan in live.halves],
        coalitions=live.there,
        planned_coalitions=live.total,
        stopped=live.stopped,
    )


class StoppingWatch:
    """Watches a game being recorded: shows how far it is and how sure, and applies the stop rules to every prefix."""

    def __init__(
        self, game: RecordedGame, experiment: Experiment, halves: Halves, rules: StopRules, report: Reporter
    ) -> None:
        self.game, self.halves, self.rules, self.report = game, halves, rules, report
        self.spec = game_spec(experiment)
        merged = merge_plans(halves).coalitions
        order = in_turn(halves)
        self.coalitions = merged[order]
        self.rows, where = distinct(self.coalitions)
        self.where = np.empty(len(merged), dtype=np.int64)  # of each row of the merged plan in `rows`
        self.where[order] = where
        self.values = np.full(len(self.rows), np.nan)  # mean over prompts
        self.there, self.total, self.before = 0, len(self.rows), len(game)
        self.start = self.shown = time.monotonic()
        self.stopped = DONE

    def utilities(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each half's rows, NaN outside the prefix."""
        both, cut = self.values[self.where], len(self.halves[0].coalitions)
        return both[:cut], both[cut:]

    def __call__(self, there: int) -> bool:
        new = slice(self.there, there)
        self.values[new] = self.game.utilities(self.rows[new]).mean(axis=1)
        advanced, self.there = there - self.there, there
        now = time.monotonic()
        if not self._due(now):
            self.report.advance(advanced)
            return False
        self.shown = now
        state = live_state(
            estimator(self.spec),
            self.halves,
            self.utilities(),
            now - self.start,
            fresh=len(self.game) - self.before,
            seed=self.spec.seed,
        )
        self.report.advance(advanced, _note(state))
        reason = self.rules.verdict(state)
        if reason is not None and there < self.total:
            self.stopped = reason
            return True
        return False

    def _due(self, now: float) -> bool:
        """A state costs a little: it is made when a rule could stop, and once a second to be shown."""
        rules = self.rules
        return (
            rules.mae
            or rules.reliability is not None
            or self.there == self.total
            or now - self.shown > 1
            or (rules.evaluations is not None and self.there >= rules.evaluations)
            or (rules.minutes is not None and now - self.start >= 60 * rules.minutes)
        )


def _note(state: GameState) -> str:
    """How sure the scores are by now, for one line of progress."""
    if state.mae is None:
        return ""
    said = f"MAE {state.mae:.4f} (1/n {state.threshold:.4f})"
    return said if state.reliability is None else f"{said}, reliability {state.reliability:.2f}"
