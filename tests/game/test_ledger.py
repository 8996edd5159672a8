"""The ledger: what was recorded comes back to the last bit, a kill leaves whole blocks, and two games never mix."""

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from cokv.game.exact import all_coalitions
from cokv.game.ledger import Ledger
from cokv.game.recorded import bits, pack
from cokv.types import CokvError

IDENTITY = {"model": {"digest": "abc"}, "window_size": 8, "prompts": ["p0", "p1"]}
N, PROMPTS = 11, 2


def some(count: int, seed: int = 0) -> np.ndarray:
    numbers = np.random.default_rng(seed).choice(2**N, count, replace=False)
    return all_coalitions(N)[numbers]


def worth(coalitions: np.ndarray) -> np.ndarray:
    """Utilities without a short decimal form, [R, PROMPTS]."""
    weights = np.random.default_rng(1).standard_normal((N, PROMPTS))
    return (coalitions[:, :, None] * weights).sum(axis=1) / 3


def written(path: Path, coalitions: np.ndarray, identity=IDENTITY, name: str = "task") -> Path:
    with Ledger(path) as ledger:
        game = ledger.game(name, identity, N, PROMPTS)
        for start in range(0, len(coalitions), 4):
            game.record(coalitions[start : start + 4], worth(coalitions[start : start + 4]), "here")
    return path


def content(path: Path) -> dict[str, str]:
    with Ledger(path, create=False) as ledger:
        return {game.name: game.digest for game in ledger.games()}


def refusal(action) -> str:
    """The one line that a refused action says."""
    with pytest.raises(CokvError) as caught:
        action()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=1, max_dims=1, min_side=1, max_side=70)))
def test_a_packed_coalition_is_read_back(coalition):
    assert bits(pack(coalition), len(coalition)) == "".join(str(int(member)) for member in coalition)


def test_utilities_come_back_to_the_last_bit(tmp_path):
    odd = np.array([[0.1, -0.0], [5e-324, 1e308], [np.nextafter(1, 2), 1 / 3]])
    coalitions = some(4)
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.game("task", IDENTITY, N, PROMPTS).record(coalitions[:3], odd)
    with Ledger(tmp_path / "a.sqlite", create=False) as ledger:
        (game,) = ledger.games()
        read_back = game.utilities(coalitions)
        assert read_back[:3].tobytes() == odd.tobytes() and np.isnan(read_back[3]).all()
        assert game.known(coalitions).tolist() == [True, True, True, False]
        assert {pack(row) for row in game.coalitions()} == {pack(row) for row in coalitions[:3]}
        assert len(game) == 3


def test_the_digest_says_what_is_known_not_how_it_came(tmp_path):
    coalitions = some(20)
    first = content(written(tmp_path / "a.sqlite", coalitions))
    assert content(written(tmp_path / "b.sqlite", coalitions[::-1])) == first
    assert content(written(tmp_path / "c.sqlite", coalitions[:-1])) != first
    assert content(written(tmp_path / "d.sqlite", coalitions, {**IDENTITY, "window_size": 9})) != first


def test_another_game_under_the_name_is_refused_and_what_differs_is_named(tmp_path):
    path = written(tmp_path / "a.sqlite", some(4))
    other = {**IDENTITY, "model": {"digest": "abd"}}
    message = refusal(lambda: written(path, some(4), other))
    assert "another game" in message and "model.digest" in message and '"abc"' in message and '"abd"' in message
    assert content(written(path, some(4), other, "second")).keys() == {"task", "second"}


def test_utilities_that_are_none_are_refused(tmp_path):
    with Ledger(tmp_path / "a.sqlite") as ledger:
        game = ledger.game("task", IDENTITY, N, PROMPTS)
        assert "1 of them not finite" in refusal(lambda: game.record(some(2), np.array([[1, np.nan], [1, 1]])))
        assert "(2, 2)" in refusal(lambda: game.record(some(2), np.ones((2, 3))))
        assert "11 players" in refusal(lambda: game.record(some(2)[:, 1:], np.ones((2, 2))))
        assert len(game) == 0 and not list(game.blocks()) and game.coalitions().shape == (0, N)


def test_a_recorded_coalition_is_never_replaced(tmp_path):
    coalitions = some(5)
    path = written(tmp_path / "a.sqlite", coalitions)
    before = content(path)
    with Ledger(path) as ledger:
        game = ledger.games()[0]
        game.record(coalitions, worth(coalitions))
        message = refusal(lambda: game.record(coalitions[3:4], worth(coalitions[3:4]) + 1))
        assert bits(pack(coalitions[3]), N) in message
    assert content(path) == before


def test_merging_is_the_union_in_any_order(tmp_path):
    coalitions = some(30)
    parts = [written(tmp_path / f"{i}.sqlite", coalitions[i * 8 : i * 8 + 14]) for i in range(3)]
    with Ledger(parts[2]) as ledger:
        ledger.games()[0].add_design({"seed": 3})
    whole = content(written(tmp_path / "whole.sqlite", coalitions))
    for order in ((0, 1, 2), (2, 1, 0), (1, 1, 2, 0)):
        out = tmp_path / f"out{order}.sqlite"
        with Ledger(out) as ledger:
            merged = ledger.merge([parts[i] for i in order])
            assert (merged.games, merged.coalitions) == (1, 30)
            assert merged.known == 14 * len(order) - 30
            (game,) = ledger.games()
            assert game.designs() == [{"seed": 3}]
            assert {origin for (origin, _), _, _ in game.blocks()} == {"here"}
        assert content(out) == whole


def test_merging_refuses_another_game_and_changes_nothing(tmp_path):
    first_ledger = written(tmp_path / "mine.sqlite", some(4))
    good = written(tmp_path / "good.sqlite", some(8))
    other = written(tmp_path / "other.sqlite", some(4), {**IDENTITY, "prompts": ["p0", "p7"]})
    before = content(first_ledger)
    with Ledger(first_ledger) as ledger:
        message = refusal(lambda: ledger.merge([good, other]))
    assert "prompts.1" in message and "other.sqlite" in message
    assert content(first_ledger) == before


def test_merging_refuses_two_utilities_of_one_coalition(tmp_path):
    coalitions = some(4)
    first_ledger = written(tmp_path / "mine.sqlite", coalitions)
    with Ledger(tmp_path / "other.sqlite") as ledger:
        near = worth(coalitions)
        near[2, 1] += 1e-7
        ledger.game("task", IDENTITY, N, PROMPTS).record(coalitions, near)
    before = content(first_ledger)
    with Ledger(first_ledger) as ledger:
        message = refusal(lambda: ledger.merge([tmp_path / "other.sqlite"]))
        assert bits(pack(coalitions[2]), N) in message and "prompt 1" in message and "other.sqlite" in message
        assert ledger.merge([tmp_path / "other.sqlite"], tolerance=1e-6).known == 4
    assert content(first_ledger) == before


@pytest.mark.parametrize(
    ("content_of", "why"),
    [
        ("text", "not a ledger that can be used"),
        ("database", "a database of something else"),
        ("torn", "not a ledger that can be used"),
        ("later", "a ledger of version 99"),
    ],
)
def test_what_is_no_ledger_is_refused(tmp_path, content_of, why):
    path = tmp_path / "a.sqlite"
    if content_of == "text":
        path.write_text("coalition,utility\n" * 99)
    elif content_of == "database":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
    else:
        written(path, some(400))
        if content_of == "torn":
            path.write_bytes(path.read_bytes()[:5000])
        else:
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA user_version = 99")
    assert f"{path}: {why}" in refusal(lambda: content(path))


def test_a_file_that_is_not_there_is_not_made_by_reading(tmp_path):
    assert "no such file" in refusal(lambda: content(tmp_path / "none.sqlite"))
    assert not list(tmp_path.iterdir())


def test_a_ledger_that_may_only_be_read_is_read(tmp_path):
    path = written(tmp_path / "a.sqlite", some(4))
    whole = content(path)
    path.chmod(0o444)
    assert content(path) == whole


WRITER = """
import sys, pathlib
sys.path[:0] = [{tests!r}, {root!r}]
from test_ledger import *
coalitions = all_coalitions(N)
with Ledger({path!r}) as ledger:
    game = ledger.game("task", IDENTITY, N, PROMPTS)
    print("ready", flush=True)
    for start in range(0, len(coalitions), 16):
        block = coalitions[start : start + 16]
        if not game.known(block).all():
            game.record(block, worth(block))
"""


def test_a_kill_leaves_whole_blocks(tmp_path):
    """kill -9 while writing as fast as can be: what is there is whole blocks, and the same program goes on."""
    path, pause = tmp_path / "a.sqlite", np.random.default_rng(0)
    here = Path(__file__)
    code = WRITER.format(tests=str(here.parent), root=str(here.parents[2]), path=str(path))
    sizes = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(float(pause.uniform(0, 0.05)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Ledger(path, create=False) as ledger:
            (game,) = ledger.games()
            assert len(game) % 16 == 0
            assert all(len(keys) == 16 for _, keys, _ in game.blocks())
            assert np.array_equal(game.utilities(game.coalitions()), worth(game.coalitions()))
            sizes.append(len(game))
    assert sizes[0] <= sizes[1] < 2**N, "a kill came too late to tell anything"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert content(path) == content(written(tmp_path / "whole.sqlite", all_coalitions(N)))
