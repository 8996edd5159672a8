"""benchmarks/game.py on a tiny shape: it plays the same game both ways, and its record says what it measured."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ["--shape", "tiny", "--prompt", "40", "--new-tokens", "6", "--coalitions", "3", "--repeats", "1"]


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("game", "game_naive", "game_worlds"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("game")


def test_the_naive_loop_finds_the_same_utilities(game: ModuleType, tmp_path: Path) -> None:
    record = game.main([*TINY, "--sample", "4", "--out", str(tmp_path / "game.json")])
    assert json.loads((tmp_path / "game.json").read_text()) == json.loads(json.dumps(record))
    assert record["coalitions"] > 4 and record["versions"]["torch"] and record["machine"]["system"]
    for result in record["results"]:
        assert result["distinct_utilities"] > 2, "coalitions should differ"
        assert set(result["identical_utilities"].values()) == {1.0}
        arms = result["arms"]
        assert arms[game.NAIVE]["extrapolated"] and not arms[game.OURS]["extrapolated"]
        total = np.prod([gain["median"] for gain in result["gain_of_each"].values()])
        assert total == pytest.approx(result["speedup"]["median"])  # one turn: ratios multiply exactly
        projection = result["projection"]
        assert projection["evaluations"] == 4 * 250 * 2 * 30
        seconds = arms[game.NAIVE]["ms_per_coalition_and_prompt"] / 1000
        assert projection["minutes"][game.NAIVE] == pytest.approx(60_000 * seconds / 60)
    assert {result["utility"] for result in record["results"]} == {"metric", "probability"}


def test_a_difference_between_arms_is_an_error(game: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game, "naive", lambda world, coalitions, utility: np.full((len(coalitions), 1), 0.123))
    with pytest.raises(AssertionError, match="utilities are not those of"):
        game.main([*TINY, "--sample", "2", "--utility", "metric"])


def test_bfloat16_reports_how_many_agree(game: ModuleType) -> None:
    record = game.main([*TINY, "--sample", "2", "--utility", "metric", "--dtype", "bfloat16"])
    assert set(record["results"][0]["identical_utilities"]) == {game.NAIVE, game.ONE, game.BATCHED}
