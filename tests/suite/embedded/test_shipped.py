"""The shipped model is what its card says: small, a real retriever at 1024 tokens, with heads that differ."""

import json

import numpy as np
import pytest

from cokv.embedded import WEIGHTS
from cokv.game.estimators import SlicedShapley
from cokv.model.loading import load_model
from suite.embedded.evaluate import BARS, task_scores
from suite.heads.games import game_of
from suite.spec import read_experiment
from suite.tasks.benchmarks import test_prompts as prompts_of
from suite.tasks.benchmarks import validation_prompts


@pytest.fixture(scope="module")
def loaded():
    return load_model()


@pytest.fixture(scope="module")
def experiment(request):
    return read_experiment(request.config.rootpath / "experiments" / "embedded.toml")


def test_the_weights_are_small_and_the_shape_is_as_announced(loaded):
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) <= 16 * 2**20
    shape = loaded.shape
    assert 12 <= shape.num_layers * shape.num_kv_heads <= 32
    assert shape.group_size > 1 and shape.context_length >= 1024


def test_the_card_has_the_scores_of_every_task():
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    scores = json.loads((WEIGHTS.parent / "scores.json").read_text(encoding="utf-8"))["tasks"]
    for task, row in scores.items():
        assert f"| {task} | {row['score']:.1f} |" in card


@pytest.mark.slow
def test_the_card_tells_the_truth(loaded):
    """The first samples of the card's own run, again: bars hold, and every score is near the card's."""
    card = json.loads((WEIGHTS.parent / "scores.json").read_text(encoding="utf-8"))
    for task in BARS:
        scores = np.array(list(task_scores(loaded, task, card["length"], 20, card["seed"])))
        stated = card["tasks"][task]
        spread = np.sqrt(scores.var(ddof=1) / len(scores) + stated["standard_error"] ** 2)
        assert abs(scores.mean() - stated["score"]) <= max(4 * spread, 5), (task, scores.mean(), stated)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["niah_single_2", "niah_multikey_1"])
def test_the_top_heads_carry_retrieval_and_the_bottom_heads_do_not(loaded, experiment, task):
    """Without the top quarter by SSV under a fifth of the score is left, without the bottom quarter four fifths."""
    spec = experiment.game
    method = SlicedShapley(spec.slice_sizes, spec.coalitions_per_size)
    game = game_of(loaded, list(validation_prompts(experiment, loaded, task, 6)), spec)
    order = np.argsort(-method.estimate(game, game.num_players, seed=0).values)
    quarter = game.num_players // 4
    coalitions = np.ones((3, game.num_players), dtype=bool)
    coalitions[1, order[:quarter]] = False
    coalitions[2, order[-quarter:]] = False
    tests = game_of(loaded, list(prompts_of(experiment, loaded, task, 0)), spec)
    full, without_top, without_bottom = tests(coalitions)
    assert full > 0.8, full
    assert without_top < 0.2 * full, (without_top, full)
    assert without_bottom >= 0.8 * full, (without_bottom, full)
