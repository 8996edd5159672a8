"""What reaches a terminal or a page holds no character that is obeyed, or that nobody sees."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.text import clip, visible

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(st.text())
def test_nothing_unseen_is_left(text: str) -> None:
    assert visible(text).isprintable()
    assert {c for c in visible(text, lines=True) if not c.isprintable()} <= {"\n"}


@given(st.text(alphabet=st.characters(exclude_categories=(*UNSEEN, "Zs"))))
def test_what_has_a_glyph_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(st.text())
def test_once_is_enough(text: str) -> None:
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "<U+001B>[31mred<U+001B>[0m"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b", "a<U+202E>b"),
        ("a\u200bb", "a<U+200B>b"),
        ("a\tb\r\nc\N{NO-BREAK SPACE}d", "a b  c d"),
        ("\ud800", "<U+D800>"),
        ("\U000e0041", "<U+E0041>"),
        ("\u2028", "<U+2028>"),
        ("问题 é 🙂", "问题 é 🙂"),
    ],
)
def test_a_code_point_stands_for_what_has_no_glyph(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_line_feeds_stay_where_lines_are_wanted() -> None:
    assert visible("a\nb\x07", lines=True) == "a\nb<U+0007>"


def test_every_category_without_a_glyph_is_covered() -> None:
    every = (chr(point) for point in range(0x110000))
    hidden = [c for c in every if unicodedata.category(c) in UNSEEN]
    assert all(visible(c) in (f"<U+{ord(c):04X}>", " ") for c in hidden)


@given(st.text(), st.integers(1, 20))
def test_a_clipped_text_is_no_longer_than_asked(text: str, length: int) -> None:
    assert len(clip(text, length)) <= length
    assert clip(text, max(1, len(text))) == text
