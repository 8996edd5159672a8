"""kill -9 at random moments: the same program goes on to the ledger and the scores of an undisturbed run, and evaluates
no coalition twice except those that were in flight."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from cokv.cluster import InProcess
from cokv.game.estimators import SlicedShapley
from cokv.game.ledger import Ledger
from cokv.game.plan import alternating_rows, merge_plans
from suite.heads.block_evaluation import blocks_of, evaluate_games
from suite.heads.halves import design
from suite.heads.ledger_scores import from_record

TESTS = Path(__file__).parents[1]
ESTIMATOR, SEEDS = SlicedShapley((4, 6), 110), (0, 1)
HALVES = [ESTIMATOR.plan(12, seed) for seed in SEEDS]
COALITIONS = merge_plans(HALVES).coalitions[alternating_rows(HALVES)]
BLOCK = 16


def evaluate(path: Path, pool, worker) -> None:
    """What `cokv profile ssv` does, over a toy."""
    with Ledger(path) as ledger:
        game = ledger.game("toy", {"game": "toy"}, 12, 2)
        game.add_design(design(ESTIMATOR, SEEDS))
        evaluate_games({"toy": (game, COALITIONS)}, pool, worker, lambda _: lambda _: False, block_size=BLOCK)


def contents(path: Path) -> tuple[str, list[float]]:
    with Ledger(path, create=False) as ledger:
        (game,) = ledger.games()
        assert sum(len(keys) for _, keys, _ in game.blocks()) == len(game)
        return game.digest, from_record(game).estimate.values.tolist()


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))
    import toy_workers

    return toy_workers


@pytest.fixture
def undisturbed(toys, tmp_path) -> tuple[str, list[float]]:
    evaluate(tmp_path / "whole.sqlite", InProcess(), toys.Toy(tmp_path / "whole"))
    assert toys.calls(tmp_path / "whole") == [str(i) for i in range(len(blocks_of(COALITIONS, BLOCK)))]
    return contents(tmp_path / "whole.sqlite")


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_leave_no_trace(toys, tmp_path, undisturbed, kills):
    """One process, which a second and a third go on from, each from the file alone."""
    path, log, rng = tmp_path / "killed.sqlite", tmp_path / "killed", np.random.default_rng(kills)
    in_time = 0

    def begun_blocks() -> int:
        return len(toys.calls(log)) if log.exists() else 0

    for _ in range(kills):
        process = multiprocessing.get_context("fork").Process(
            target=evaluate, args=(path, InProcess(), toys.Toy(log, 0.02))
        )
        before = begun_blocks()
        process.start()
        while process.is_alive() and begun_blocks() == before:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.03)))  # in the block's evaluation, its record, or the next block
        process.kill()
        process.join()
        in_time += process.exitcode == -signal.SIGKILL
    evaluate(path, InProcess(), toys.Toy(log))
    assert in_time >= 0.8 * kills, "kills should come before the end"
    assert contents(path) == undisturbed
    begun = toys.calls(log)
    assert set(begun) == {str(i) for i in range(len(blocks_of(COALITIONS, BLOCK)))}
    assert len(begun) <= len(set(begun)) + in_time, "only a block in flight at a kill may be evaluated again"


@pytest.mark.slow
def test_killed_ray_workers_leave_no_trace(toys, tmp_path, undisturbed, monkeypatch):
    """On two nodes; the driver is killed by none, its workers are, as they begin a block."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'cokv[ray]')")
    from ray.cluster_utils import Cluster

    from cokv.cluster.on_ray import OnRay

    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
    fate = {2: "dies once", 9: "dies once", 20: "dies once"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    try:
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
        cluster.wait_for_nodes()
        evaluate(tmp_path / "ray.sqlite", OnRay(cluster.address), toys.Toy(tmp_path / "ray", 0.01, fate))
    finally:
        cluster.shutdown()
    assert contents(tmp_path / "ray.sqlite") == undisturbed
    begun = toys.calls(tmp_path / "ray")
    assert {block for block in begun if begun.count(block) > 1} >= {"2", "9", "20"}
    assert len(begun) <= len(set(begun)) + 2 * len(fate)
