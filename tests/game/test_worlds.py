"""Planted worlds: what each score must say of each role, of plain functions and of a transformer's heads alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds.planted import (
    ASK,
    HEADS,
    UNKNOWN,
    VALUE,
    VALUES,
    attention_on_needle,
    planted_game,
    planted_model,
    planted_prompts,
)
from worlds.role_games import EVERYTHING_ROLES, WORLDS, everything, everything_by_question, views

from cokv.decode.batches import Row
from cokv.decode.decode import decode
from cokv.game.estimators import LeaveOneOut, SlicedShapley
from cokv.game.exact import all_coalitions
from cokv.game.players import coalition_selection

PROMPTS = planted_prompts(per_question=2, seed=3)


@pytest.fixture(scope="module")
def model():
    return planted_model()


@pytest.fixture(scope="module")
def game(model):
    return planted_game(model, PROMPTS)


@pytest.fixture(scope="module", params=[world.__name__ for world in WORLDS] + ["transformer"])
def scored(request):
    """Roles and scores of a world; the transformer's are measured through the engine."""
    if request.param == "transformer":
        game = request.getfixturevalue("game")
        return EVERYTHING_ROLES, views(game, game.num_players, (2, 3, 4))
    world = next(world() for world in WORLDS if world.__name__ == request.param)
    sizes = (2, 3, 4) if world.num_players == 8 else (1, 2)
    return world.roles, views(world, world.num_players, sizes)


def of(roles, role):
    return np.array([name == role for name in roles])


def test_leave_one_out_sees_no_substitutes(scored):
    roles, scores = scored
    assert np.all(scores["leave_one_out"][of(roles, "substitute")] == 0)
    assert np.all(scores["alone"][of(roles, "substitute")] > 0)


def test_a_head_alone_sees_neither_complements_nor_harm(scored):
    roles, scores = scored
    assert np.all(scores["alone"][of(roles, "complement") | of(roles, "harmful")] == 0)
    assert np.all(scores["leave_one_out"][of(roles, "complement")] > 0)


def test_the_shapley_value_sees_all_roles(scored):
    roles, scores = scored
    values = scores["shapley"]
    assert np.all(values[of(roles, "complement") | of(roles, "substitute") | of(roles, "carrier")] > 0.1)
    assert np.all(values[of(roles, "harmful")] < -0.1)


def test_null_players_are_worth_exactly_nothing(scored):
    roles, scores = scored
    null = of(roles, "null") | of(roles, "onlooker")
    for name in ("leave_one_out", "alone", "shapley"):
        np.testing.assert_allclose(scores[name][null], 0.0, atol=1e-15)


def test_ssv_ranks_as_the_shapley_value_does(scored):
    """Its sign says nothing, since small coalitions lose to their complements; its order does."""
    roles, scores = scored
    null = scores["sliced"][of(roles, "null")]
    assert np.ptp(null) < 1e-12 and null[0] < 1e-12
    above = scores["sliced"] - null[0]
    helpful = of(roles, "carrier") | of(roles, "complement") | of(roles, "substitute")
    assert np.all(above[helpful] > 0.1) and np.all(above[of(roles, "harmful")] < -0.1)
    order = np.argsort(scores["shapley"], kind="stable")
    assert np.all(np.diff(scores["sliced"][order]) > -1e-12)


def test_shares_sum_to_what_all_are_worth(scored):
    roles, scores = scored
    full = 0.75 if len(roles) == 8 else float("harmful" not in roles)
    assert scores["shapley"].sum() == pytest.approx(full)


def test_the_transformer_is_its_world_coalition_by_coalition(game):
    coalitions = all_coalitions(8)
    expected = everything_by_question(coalitions)[:, [prompt.kind for prompt in PROMPTS]]
    np.testing.assert_array_equal(game.per_prompt(coalitions), expected)
    np.testing.assert_array_equal(everything()(coalitions), expected.mean(axis=1))


def test_attention_cannot_tell_an_onlooker_from_a_speaker(model):
    attention = attention_on_needle(model, PROMPTS)
    roles = EVERYTHING_ROLES
    assert attention[of(roles, "onlooker")] == attention.max() == 0.75
    np.testing.assert_array_equal(attention[of(roles, "harmful") | of(roles, "null")], 0)
    np.testing.assert_array_equal(attention[of(roles, "complement") | of(roles, "substitute")], 0.25)


def test_what_the_transformer_says(model, game):
    """Asked, it repeats the kind of question, then the value, the decoy, or that it does not know."""
    for prompt, played in zip(PROMPTS, game.prompts, strict=True):
        for missing, word in (((), None), ((0, 1, 3, 4), UNKNOWN), (range(8), UNKNOWN)):
            members = np.ones(8, dtype=bool)
            members[list(missing)] = False
            row = Row(coalition_selection(members, played.prefill, 8))
            (answers,) = decode(model, played.prefill, [row], played.stop)
            assert answers.tokens[0] == ASK + prompt.kind
            if prompt.kind == 3 and 5 not in missing:
                assert (answers.tokens[1] - VALUE) // VALUES == 3, "the harmful head says its decoy"
            else:
                assert answers.tokens[1] == (prompt.answer if word is None else word)


def test_answers_are_out_of_the_window_and_differ():
    assert len({prompt.answer for prompt in PROMPTS}) > 3
    for prompt in PROMPTS:
        assert prompt.needle < len(prompt.input_ids) - 8
        assert int(torch.sum(prompt.input_ids == prompt.answer)) == 1 and len(HEADS) == 8


def test_estimators_see_the_same_roles_in_the_transformer(game):
    sampled = SlicedShapley((2, 3, 4), 40, draws="balanced").estimate(game, 8, seed=0).values
    assert np.argmax(sampled) == 0 and np.argmin(sampled) == 5
    assert min(sampled[1:5]) > max(sampled[6:])
    single = LeaveOneOut().estimate(game, 8, seed=0).values
    np.testing.assert_array_equal(single[[3, 4, 6, 7]], 0)
