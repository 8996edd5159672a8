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


def test_the_digest_covers_every_room_that_makes_answers(monkeypatch):
    rooms, before = source.ROOMS, source.source_digest()
    assert rooms == ("cokv", "longbench", "ruler", "suite")
    for left_out in rooms:
        monkeypatch.setattr(source, "ROOMS", tuple(room for room in rooms if room != left_out))
        assert source.source_digest.__wrapped__() != before
