"""Checks of games on planted worlds: whose heads, and so whose verdicts, are known."""

from types import SimpleNamespace

import numpy as np
import pytest
from worlds.role_games import everything

from cokv.game.estimators import SlicedShapley
from cokv.types import HeadScores
from suite.checks import masking, rankings, slices, stability
from suite.checks.context import Context
from suite.checks.games import CheckGame
from suite.checks.order import TwoRuns
from suite.spec import Experiment

SHAPE = SimpleNamespace(num_layers=4, num_kv_heads=4)
N = 16
WORTH = np.linspace(0.1, 0.01, N)


def context(players: tuple[int, int] = (4, 4), per_size: int = 48, **checks) -> Context:
    experiment = Experiment.model_validate_json(
        '{"name": "planted", "methods": [{"name": "full"}], "kv_budgets": [64],'
        ' "ruler": {"preset": "mini", "length": 256, "samples": 2, "tasks": ["vt"]},'
        f' "game": {{"slice_sizes": [2, 4], "coalitions_per_size": {per_size}, "utility": "probability"}},'
        ' "checks": {}}'
    )
    experiment = experiment.model_copy(update={"checks": experiment.checks.model_copy(update=checks)})
    shape = SimpleNamespace(num_layers=players[0], num_kv_heads=players[1])
    scores = {"vt": HeadScores(WORTH.reshape(4, 4))} if players == (4, 4) else {}
    return Context(experiment, SimpleNamespace(shape=shape, name="planted"), scores)


class Planted:
    """Utilities by a function of the coalitions, per game or for all; as suite.checks.games.Played."""

    def __init__(self, utility) -> None:
        self.utility = utility

    def per_prompt(self, game, coalitions):
        return self.utility(game, coalitions)

    def means(self, game, coalitions):
        values = self.utility(game, coalitions)
        return values if values.ndim == 1 else values.mean(axis=1)


def additive(game, coalitions):
    return coalitions @ WORTH


def verdicts(rows) -> dict[str, str]:
    return {row["what"].split(" (")[0]: row.get("verdict", "not run") for row in rows}


def test_two_runs_of_an_additive_game_agree_and_of_noise_do_not():
    rows = verdicts(stability.rows(context(per_size=96), Planted(additive)))
    assert rows["Is the MAE of two runs below 1/n?"] == "holds"
    assert rows["Coalitions until the MAE is below 1/n"] == "holds"
    noise = np.random.default_rng(0)
    rows = verdicts(stability.rows(context(per_size=16), Planted(lambda g, c: noise.random(len(c)))))
    assert rows["Is the MAE of two runs below 1/n?"] == "does not hold"
    assert rows["Is the order of the heads reliable?"] != "holds"
    assert rows["Coalitions until the MAE is below 1/n"] == "does not hold"


def test_the_number_of_coalitions_is_of_the_prefix_that_stays_below():
    method = SlicedShapley((4, 8), 30)
    plans = method.plan(N, 0), method.plan(N, 1)
    runs = TwoRuns(method, plans, tuple(plan.coalitions @ WORTH for plan in plans))
    reached = stability.first_passed(runs, "mae", seed=0)
    assert len(reached) == stability.ORDERS and np.isfinite(reached).all()
    assert reached.min() < reached.max() <= sum(plan.evaluations for plan in plans)
    assert (reached == stability.first_passed(runs, "mae", seed=0)).all()
    cut = tuple(plan.part(plan.draw < 30) for plan in plans)
    shorter = TwoRuns(method, cut, tuple(plan.coalitions @ WORTH for plan in cut))
    gap = np.abs(shorter.scores(0) - shorter.scores(1)).mean()
    if reached[0] <= sum(plan.evaluations for plan in cut):
        assert gap < 1 / N, "the plan's own order passed the bar with fewer draws, for good"


def test_balanced_draws_have_no_random_orders():
    given = context()
    game = given.experiment.game.model_copy(update={"draws": "balanced"})
    given = Context(given.experiment.model_copy(update={"game": game}), given.loaded, given.scores)
    rows = verdicts(stability.rows(given, Planted(additive)))
    assert (
        rows["Coalitions until the MAE is below 1/n"] == "not run"
        and rows["Is the MAE of two runs below 1/n?"] == "holds"
    )


@pytest.mark.parametrize("exact", [True, False])
def test_few_sizes_rank_an_additive_game_as_all_do(exact):
    given = context(per_size=96, exact=exact, reference_per_size=60)
    rows = slices.rows(given, Planted(additive))
    assert [row["verdict"] for row in rows] == ["holds", "holds"]
    assert [row["coalitions"] == 2**N for row in rows] == [exact, exact]
    (coalitions,) = slices.wanted(given).values()
    assert len(np.unique(coalitions, axis=0)) == 2**N if exact else len(coalitions) < 2**N


def test_the_exact_order_of_a_world_with_roles_is_the_oracles():
    """Complements count as substitutes do in the Shapley value, not at a small size: known from its exact values."""
    from scipy import stats

    from cokv.game.exact import exact_shapley, exact_sliced_shapley

    world = everything()
    rows = slices.rows(context((2, 4), exact=True), Planted(lambda game, coalitions: world(coalitions)))
    for row, sizes in zip(rows, ((2, 4), (1, 2, 3, 4)), strict=True):
        sliced, whole = exact_sliced_shapley(world, 8, sizes), exact_shapley(world, 8)
        assert row["score"] == pytest.approx(stats.spearmanr(sliced, whole).statistic)
        assert row["low"] == row["high"] == row["score"]


def test_exact_is_refused_where_there_are_too_many_heads():
    given = context((6, 4), exact=True)
    first, *others = slices.rows(given, Planted(lambda game, coalitions: coalitions.mean(axis=1)))
    assert "at most 20 heads, the model has 24" in first["not_run"] and len(others) == 2


def test_masking_a_planted_ranking_loses_from_the_top_alone():
    """Eight samples that need the first head alone: gone with the top tenth, whole without the bottom third."""
    needs_first = Planted(lambda game, coalitions: np.repeat(coalitions[:, :1].astype(float), 18, axis=1))
    rows = masking.rows(context(), needs_first)
    by_what = verdicts(rows)
    assert by_what["Left of the full score without the highest 2 of 16"] == "holds"
    assert by_what["Left of the full score without the lowest 5 of 16"] == "holds"
    assert by_what["Without the highest 8 of 16: below random heads cut?"] == "holds"
    left = {row["what"]: row["left"]["score"] for row in rows if "left" in row}
    assert {value for what, value in left.items() if "highest" in what} == {0.0}
    assert {value for what, value in left.items() if "lowest" in what} == {100.0}


def test_a_ranking_turned_round_fails_both_bars_and_raises_the_score():
    spoiler = Planted(lambda game, coalitions: np.repeat(1.0 - 0.9 * coalitions[:, -1:], 18, axis=1))
    by_what = verdicts(masking.rows(context(), spoiler))
    assert by_what["Left of the full score without the highest 2 of 16"] == "does not hold"
    assert by_what["Without the lowest 2 of 16: above the full cache?"] == "holds"
    assert by_what["Without the lowest 2 of 16: above random heads cut?"] in ("holds", "undecided")


def test_masking_of_a_task_that_is_never_answered_has_no_share():
    rows = masking.rows(context(), Planted(lambda game, coalitions: np.zeros((len(coalitions), 12))))
    assert {row["not_run"] for row in rows if "not_run" in row} == {
        "the full cache scores 0 on these samples, so no share of it can be left"
    }
    assert not any(row.get("verdict") == "holds" for row in rows)


def test_utilities_that_rank_alike_hold_and_one_that_does_not_fails(monkeypatch):
    monkeypatch.setattr(rankings, "_has_answers", lambda *_: True)

    def utility(game: CheckGame, coalitions):
        return coalitions @ (WORTH[::-1] if game.utility == "metric" else WORTH)

    rows = verdicts(rankings.rows(context(), Planted(utility), "utility"))
    assert rows["exact match and probability: the same order of heads?"] == "holds"
    assert rows["task metric and probability: the same order of heads?"] == "does not hold"
    (row,) = rankings.rows(context(), Planted(utility), "first_token")
    assert row["verdict"] == "holds" and row["what"].startswith("First token from the uncompressed prefill and the")
    monkeypatch.setattr(rankings, "_has_answers", lambda *_: False)
    (row,) = rankings.rows(context(), Planted(utility), "utility")
    assert "no full answer to force" in row["not_run"]
    assert rankings.wanted(context(), "utility") == {}


def test_all_coalitions_that_a_row_reads_are_wanted():
    given = context()

    class Checked(Planted):
        def __init__(self, wanted):
            self.wanted = {game: {row.tobytes() for row in rows} for game, rows in wanted.items()}

        def per_prompt(self, game, coalitions):
            assert all(row.tobytes() in self.wanted[game] for row in coalitions)
            return np.repeat(additive(game, coalitions)[:, None], 6, axis=1)

        def means(self, game, coalitions):
            return self.per_prompt(game, coalitions)[:, 0]

    for check in (stability, slices, masking):
        check.rows(given, Checked(check.wanted(given)))
    rankings.rows(given, Checked(rankings.wanted(given, "first_token")), "first_token")
