"""Agreement of utilities: known correlations, and what a change of the first token does to a ranking."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from worlds.agreement import agreement, agreement_of, first_token_effect, utility_agreement

from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop
from cokv.game.estimators import SlicedShapley
from cokv.game.plan import BoolArray
from cokv.game.utility import GamePrompt, HeadGame
from cokv.types import CokvError, FloatArray

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
WORTH = np.arange(12.0)
ESTIMATOR = SlicedShapley((3, 6), 60)


def additive(worth: FloatArray, noise: float = 0.0) -> Callable[[BoolArray], FloatArray]:
    generator = np.random.default_rng(0)
    return lambda coalitions: coalitions @ worth + noise * generator.standard_normal(len(coalitions))


def test_utilities_that_rank_alike_correlate_fully() -> None:
    games = {"a": additive(WORTH), "b": additive(10 * WORTH + 5), "reversed": additive(-WORTH)}
    report = agreement(games, ESTIMATOR, 12, seed=0)
    assert report.spearman == {("a", "b"): 1.0, ("a", "reversed"): -1.0, ("b", "reversed"): -1.0}
    assert report.top_shared == {("a", "b"): 1.0, ("a", "reversed"): 0.0, ("b", "reversed"): 0.0}
    assert all(value is not None and value > 0.7 for value in report.reliability.values())
    as_json = json.loads(json.dumps(report.to_json()))
    assert as_json["pairs"][0] == {"utilities": ["a", "b"], "spearman": 1.0, "top_quarter_shared": 1.0}


def test_noise_lowers_reliability_and_correlation() -> None:
    report = agreement({"clean": additive(WORTH), "noisy": additive(WORTH, noise=60.0)}, ESTIMATOR, 12, seed=0)
    clean, noisy = report.reliability["clean"], report.reliability["noisy"]
    assert clean is not None and noisy is not None and noisy < clean
    correlation = report.spearman["clean", "noisy"]
    assert correlation is not None and correlation < 0.95


def test_every_coalition_is_played_once_in_each_game() -> None:
    evaluated: list[int] = []

    def game(coalitions: BoolArray) -> FloatArray:
        assert len(np.unique(coalitions, axis=0)) == len(coalitions)
        evaluated.append(len(coalitions))
        return coalitions @ WORTH

    report = agreement({"a": game, "b": game}, ESTIMATOR, 12, seed=3)
    assert evaluated == [report.num_coalitions] * 2
    plan = ESTIMATOR.plan(12, 3)
    same = agreement_of({"a": plan.coalitions @ WORTH, "b": plan.coalitions @ WORTH}, ESTIMATOR, plan, seed=3)
    assert np.array_equal(same.scores["a"], report.scores["a"])


def test_a_constant_utility_has_no_ranking() -> None:
    report = agreement({"a": additive(WORTH), "flat": additive(0 * WORTH)}, ESTIMATOR, 12, seed=0)
    assert report.spearman["a", "flat"] is None and report.reliability["flat"] is None
    with pytest.raises(CokvError, match="expected two or more"):
        agreement({"a": additive(WORTH)}, ESTIMATOR, 12, seed=0)


def test_a_real_games_utilities_and_first_tokens(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(40)
    full = model.generate(ids[None], max_new_tokens=6, do_sample=False)[0, 40:].tolist()
    judged = GamePrompt(
        prefill(model, ids), Stop(6), lambda t: sum(a == b for a, b in zip(t, full, strict=True)) / 6, tuple(full)
    )
    game = HeadGame(model, [judged], window_size=4)
    estimator = SlicedShapley((2, 3), 15)
    report = utility_agreement(game, estimator, seed=0)
    assert list(report.scores) == ["metric", "exact_match", "probability", "log_likelihood"]
    assert len(report.spearman) == 6
    effect = first_token_effect(game, estimator, seed=0)
    plan = estimator.plan(6, 0)
    assert np.array_equal(effect.scores["prefill"], estimator.aggregate(plan, game(plan.coalitions)).values)
    assert not np.array_equal(effect.scores["prefill"], effect.scores["compressed"])
    assert effect.spearman["prefill", "compressed"] is not None
