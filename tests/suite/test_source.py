"""A run's name changes with what the code does, and not with how it is explained."""

import pytest

from suite.run import source
from suite.run.source import meaning

CODE = '''
"""What it is for."""

def double(x):
    """Twice."""
    return 2 * x  # a comment
'''


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("Twice.", "Two times."),
        CODE.replace("  # a comment", ""),
        CODE.replace("2 * x", "(2\n        * x)"),
        CODE.replace('    """Twice."""\n', ""),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(other):
    assert other != CODE
    assert meaning(other) == meaning(CODE)


@pytest.mark.parametrize("other", [CODE.replace("2 * x", "3 * x"), CODE.replace("x", "y"), CODE + "print(1)\n"])
def test_statements_count(other):
    assert meaning(other) != meaning(CODE)


def test_the_digest_covers_every_room_that_makes_answers():
    rooms, before = source.ROOMS, source.source_digest()
    assert rooms == ("cokv", "longbench", "ruler", "suite")
    for left_out in rooms:
        assert source.source_digest(tuple(room for room in rooms if room != left_out)) != before


def test_of_the_command_line_it_covers_nothing_and_of_a_game_only_what_makes_utilities():
    names = {name for part in source.ROOMS for name in source._files(part).values()}
    assert "suite/cli/main.py" in names
    assert source.source_digest(without=(*source.SILENT, "suite.cli.main")) == source.source_digest()
    assert source.source_digest(without=(*source.SILENT, "suite.run.samples")) != source.source_digest()
    game = source.source_digest(source.GAME, ())
    assert source.source_digest(source.GAME, ("cokv.game.sliced", "reports", "cokv.methods")) == game
    assert source.source_digest(source.GAME, ("cokv.game.utility",)) != game
