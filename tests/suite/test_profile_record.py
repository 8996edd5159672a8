"""Evaluating a game into its ledger: same blocks whatever is there, nothing twice, stops that a kill cannot move."""

import itertools

import numpy as np
import pytest

from cokv.cluster import InProcess
from cokv.game.ledger import Ledger
from cokv.game.plan import distinct
from cokv.game.recorded import bits, pack
from suite.heads.block_evaluation import evaluate_games

N, BLOCK = 6, 16
COALITIONS = np.array([[i >> b & 1 for b in range(N)] for i in range(40)], dtype=bool)


def record(game, coalitions, pool, make_worker, watch=lambda evaluated: False) -> int:
    """How many distinct coalitions the watch was shown."""
    shown = [0]

    def shown_to_watch(evaluated):
        shown.append(evaluated)
        return watch(evaluated)

    evaluate_games({"toy": (game, coalitions)}, pool, make_worker, lambda name: shown_to_watch, BLOCK)
    return shown[-1]


class Toy:
    """Utilities that depend on the whole batch, as rounding does, and a log of the batches."""

    def __init__(self):
        self.batches: list[list[str]] = []

    def __call__(self, device):
        def work(task):
            *_, block = task
            self.batches.append([bits(pack(row), N) for row in block])
            return "toy", (block.sum(axis=1) + block.mean())[:, None] * np.array([1.0, 0.5])

        return work


class Backwards:
    """A pool whose results come in the opposite order."""

    def map_blocks(self, make_worker, blocks):
        worker = make_worker("cpu")
        for index, block in reversed(list(enumerate(blocks))):
            yield index, worker(block)


@pytest.fixture
def game(tmp_path):
    counter = itertools.count()

    def make():
        return Ledger(tmp_path / f"{next(counter)}.sqlite").game("task", {}, N, 2)

    return make


def test_every_distinct_coalition_is_evaluated_once(game):
    toy, recorded_game = Toy(), game()
    twice = np.concatenate([COALITIONS[:9], COALITIONS])
    assert record(recorded_game, twice, InProcess(), toy) == 40
    flat = [row for batch in toy.batches for row in batch]
    assert len(flat) == len(set(flat)) == 40
    assert [len(batch) for batch in toy.batches] == [16, 16, 8]
    assert record(recorded_game, twice, InProcess(), toy) == 40 and len(toy.batches) == 3


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 2), (0, 1, 2), ()])
def test_a_coalition_meets_the_same_others_whatever_is_recorded(game, kept):
    """A batch of another make-up may round differently: a resumed game evaluates the blocks of an uninterrupted one."""
    whole, resumed, toy = game(), game(), Toy()
    record(whole, COALITIONS, InProcess(), toy)
    for block in kept:  # as a kill of several workers leaves them
        rows = COALITIONS[block * BLOCK : (block + 1) * BLOCK]
        resumed.record(rows, whole.utilities(rows))
    again = Toy()
    record(resumed, COALITIONS, Backwards(), again)
    assert again.batches == [toy.batches[i] for i in reversed(range(3)) if i not in kept]
    assert resumed.digest == whole.digest


def test_a_longer_plan_adds_only_what_is_missing(game):
    toy, recorded_game = Toy(), game()
    record(recorded_game, COALITIONS[:21], InProcess(), toy)
    record(recorded_game, COALITIONS, InProcess(), toy)
    flat = [row for batch in toy.batches for row in batch]
    assert len(flat) == len(set(flat)) == 40 and len(recorded_game) == 40


def test_the_watch_sees_every_prefix_and_stops_there(game):
    for pool in (InProcess(), Backwards()):
        prefixes: list[int] = []
        recorded_game = game()

        def watch(there, prefixes=prefixes):
            prefixes.append(there)
            return there >= 32

        assert record(recorded_game, COALITIONS, pool, Toy(), watch) == 32
        assert prefixes == [16, 32]
        prefixes.clear()  # the same command again stops at the same place, and evaluates nothing
        toy = Toy()
        assert record(recorded_game, COALITIONS, pool, toy, watch) == 32
        assert prefixes == [16, 32] and not toy.batches


def test_stopping_ends_the_pool(game):
    ended = []

    class Pool:
        def map_blocks(self, make_worker, blocks):
            worker = make_worker("cpu")
            try:
                for index, block in enumerate(blocks):
                    yield index, worker(block)
            finally:
                ended.append(True)

    record(game(), COALITIONS, Pool(), Toy(), lambda there: True)
    assert ended == [True]


def test_the_coalitions_of_a_block_are_in_the_plans_order(game):
    toy = Toy()
    shuffled = COALITIONS[np.random.default_rng(0).permutation(40)]
    record(game(), shuffled, InProcess(), toy)
    assert [row for batch in toy.batches for row in batch] == [bits(pack(r), N) for r in distinct(shuffled)[0]]
