"""The exact oracle obeys Shapley's axioms and agrees with the definition over all orders of the players."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.toy import additive, dictator, glove, interactions, majority, substitutes, unanimity

from cokv.game.exact import all_coalitions, all_utilities, exact_shapley, exact_sliced_shapley
from cokv.types import CokvError

TOYS = [
    dictator(5, 2),
    majority(5),
    majority(6),
    unanimity(6, [1, 4, 5]),
    substitutes(6, [0, 3]),
    additive([0.5, 0.0, -1.0, 2.0]),
    glove(1, 2),
    glove(3, 2),
    interactions(8, seed=3),
]


def table_game(table):
    """The game whose utilities are looked up by coalition number."""
    bits = 2 ** np.arange(int(np.log2(len(table))))
    return lambda coalitions: np.asarray(table, dtype=np.float64)[coalitions @ bits]


def shapley_over_orders(game, n):
    """The definition: mean marginal contribution over all n! orders. Slow, and obviously right."""
    values = np.zeros(n)
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        coalition = np.zeros((1, n), dtype=bool)
        before = game(coalition)[0]
        for player in order:
            coalition[0, player] = True
            after = game(coalition)[0]
            values[player] += after - before
            before = after
    return values / len(orders)


games = st.integers(1, 5).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.floats(-10, 10), min_size=2**n, max_size=2**n))
)


@given(games)
@settings(max_examples=30, deadline=None)
def test_equals_the_mean_over_all_orders(case):
    n, table = case
    game = table_game(table)
    np.testing.assert_allclose(exact_shapley(game, n), shapley_over_orders(game, n), atol=1e-9)


@given(games)
@settings(max_examples=50, deadline=None)
def test_efficiency_the_values_share_out_what_all_players_add(case):
    n, table = case
    assert exact_shapley(table_game(table), n).sum() == pytest.approx(table[-1] - table[0], abs=1e-9)


@given(games, st.floats(-3, 3), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_linearity_the_value_of_a_sum_of_games_is_the_sum_of_values(case, factor, random):
    n, table = case
    other = [random.uniform(-10, 10) for _ in table]
    combined = [factor * a + b for a, b in zip(table, other, strict=True)]
    expected = factor * exact_shapley(table_game(table), n) + exact_shapley(table_game(other), n)
    np.testing.assert_allclose(exact_shapley(table_game(combined), n), expected, atol=1e-9)


@given(st.integers(2, 6), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_symmetry_players_who_do_the_same_get_the_same(n, random):
    worth = [random.uniform(-10, 10) for _ in range(4 * 2**n)]
    bits = 2 ** np.arange(n - 2)

    def game(coalitions):  # players 0 and 1 act through their number alone
        return np.asarray(worth)[4 * (coalitions[:, 2:] @ bits) + coalitions[:, 0] + coalitions[:, 1]]

    values = exact_shapley(game, n)
    assert values[0] == pytest.approx(values[1], abs=1e-9)


@given(games)
@settings(max_examples=50, deadline=None)
def test_null_player_who_changes_nothing_gets_nothing(case):
    n, table = case
    with_null = table_game(table)
    values = exact_shapley(lambda coalitions: with_null(coalitions[:, :n]), n + 1)
    assert values[n] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(values[:n], exact_shapley(with_null, n), atol=1e-9)


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: f"{toy.name}{toy.num_players}")
def test_toy_games_have_the_answer_they_state(toy):
    np.testing.assert_allclose(exact_shapley(toy, toy.num_players), toy.shapley, atol=1e-12)


def test_glove_game_textbook_values():
    np.testing.assert_allclose(glove(1, 2).shapley, [2 / 3, 1 / 6, 1 / 6], atol=1e-15)


@given(games)
@settings(max_examples=50, deadline=None)
def test_sliced_value_over_all_sizes_is_the_shapley_value(case):
    n, table = case
    game = table_game(table)
    np.testing.assert_allclose(exact_sliced_shapley(game, n, range(1, n + 1)), exact_shapley(game, n), atol=1e-9)


@given(games.filter(lambda case: case[0] > 1))
@settings(max_examples=50, deadline=None)
def test_without_the_grand_coalition_the_sliced_value_is_shifted_and_scaled(case):
    n, table = case
    game = table_game(table)
    expected = (n * exact_shapley(game, n) - (table[-1] - table[0])) / (n - 1)
    np.testing.assert_allclose(exact_sliced_shapley(game, n, range(1, n)), expected, atol=1e-9)


@pytest.mark.parametrize("sizes", [(3, 4), (1, 6), (2, 3, 4, 5)])
def test_on_additive_games_sizes_closed_under_reflection_give_the_shapley_value(sizes):
    game = additive([0.3, 0.0, -0.2, 1.0, 0.7, 0.1])
    np.testing.assert_allclose(exact_sliced_shapley(game, 6, sizes), game.shapley, atol=1e-12)


def test_on_other_games_few_sizes_give_another_value():
    assert not np.allclose(exact_sliced_shapley(glove(2, 4), 6, (3,)), glove(2, 4).shapley, atol=1e-3)


def test_every_coalition_is_evaluated_once():
    evaluated = []
    all_utilities(
        lambda coalitions: (evaluated.append(coalitions.copy()), np.zeros(len(coalitions)))[1], 6, batch_size=10
    )
    rows = np.concatenate(evaluated)
    assert len(rows) == 64 and len(np.unique(rows, axis=0)) == 64
    np.testing.assert_array_equal(rows, all_coalitions(6))


def test_too_many_players_says_what_to_use_instead():
    with pytest.raises(CokvError, match=r"at most 20 players; use PermutationSampling or SlicedShapley"):
        exact_shapley(majority(21), 21)


@pytest.mark.parametrize("returned", [np.zeros((8, 1)), np.zeros(7), np.full(8, np.nan)])
def test_a_game_that_answers_wrongly_is_refused(returned):
    with pytest.raises(CokvError, match="utilit"):
        exact_shapley(lambda coalitions: returned, 3)
