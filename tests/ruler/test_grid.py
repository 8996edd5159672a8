"""Needles at chosen depths of prompts of chosen lengths."""

from __future__ import annotations

import pytest

from ruler import grid
from ruler.errors import RulerError
from ruler.essays import read_essays
from ruler.sample import Draft

ESSAYS = read_essays("alice").sentences


def words(draft: Draft) -> int:
    return len(draft.prompt.split())


@pytest.mark.parametrize("length", [120, 1000, 60_000])  # the last is more than the essays have
@pytest.mark.parametrize("depth", [0, 44, 100])
def test_a_prompt_is_as_long_as_asked_and_has_its_needle_once(length: int, depth: int) -> None:
    drawn = grid.fitted(grid.DOLORES_PARK, ESSAYS, depth, length, 30, words)
    assert words(drawn) + 30 == length
    assert drawn.context.count(grid.DOLORES_PARK.sentence) == 1


def test_the_needle_stands_at_its_depth_between_two_sentences() -> None:
    places = []
    for depth in (0, 25, 50, 75, 100):
        drawn = grid.fitted(grid.DOLORES_PARK, ESSAYS, depth, 8000, 30, words)
        before, _, after = drawn.context.removeprefix(grid.INTRO).partition(grid.DOLORES_PARK.sentence)
        places.append(100 * len(before.split()) / len((before + after).split()))
        assert not before or before.rstrip().endswith((".", "!", "?", '"', "’", "”", "'")) or depth == 100, before[-40:]
    assert places[0] == 0
    assert places[-1] == 100
    assert all(depth - 3 < place <= depth for depth, place in zip((25, 50, 75), places[1:-1], strict=True)), places


def test_the_score_is_the_share_of_the_needles_words() -> None:
    answer = grid.DOLORES_PARK.answer.strip()
    assert grid.score(f"You should {answer}", [answer]) == 100
    assert grid.score("", [answer]) == 0
    assert grid.score("Eat a sandwich", [answer]) == pytest.approx(100 * 3 / len(set(answer.lower().split())))


def test_a_needle_that_does_not_fit_is_refused_with_the_length() -> None:
    with pytest.raises(RulerError, match="more than 40 tokens, 30 of them for the answer"):
        grid.fitted(grid.DOLORES_PARK, ESSAYS, 50, 40, 30, words)
