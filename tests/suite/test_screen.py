"""What is printed is never obeyed: control and bidirectional characters of names, answers and files are shown."""

from __future__ import annotations

import io
import json

import pytest
from command_line import call, refused
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cokv.methods.registry import get_method
from cokv.types import HeadScores, Selection
from suite.cli import screen
from suite.cli.compare_show import show as show_comparison
from suite.cli.screen import json_text
from suite.run.compare import Compared, Comparison

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2066\x9b31m\u200b\x7f\r\b"
OBEYED = "\x1b\x07\u202e\u2066\x9b\u200b\x7f\r\b"


def harmless(text: str) -> None:
    assert not set(text) & set(OBEYED), ascii(text)


@pytest.mark.parametrize("part", [HOSTILE, Text(HOSTILE, "red"), "table"], ids=["str", "text", "table"])
def test_whatever_is_printed_is_made_visible(monkeypatch, part):
    if part == "table":
        part = Table(HOSTILE, title=HOSTILE)
        part.add_row(HOSTILE)
    out = io.StringIO()
    monkeypatch.setattr(screen, "Console", lambda **settings: Console(file=out, **settings))
    screen.show(part, width=300)
    harmless(out.getvalue())
    assert "<U+202E>gnp.exe" in out.getvalue()


def test_a_terminal_keeps_its_colours():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard")
    console.push_render_hook(screen._MadeVisible())
    console.print(Text(HOSTILE, "red"))
    assert out.getvalue().startswith("\x1b[31m") and "<U+001B>]0;owned" in out.getvalue()


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_is_the_same_value_and_only_shown_characters(value):
    text = json_text(value)
    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()


def test_an_answer_is_shown_in_quotes_and_never_obeyed():
    selection = Selection.full(1, 1, 8)
    full = Compared(get_method("full"), selection, HOSTILE, 3, 64)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200)
    show_comparison(Comparison(4, 4, 8, 64, full, (full,)), console)
    plain = Text.from_ansi(out.getvalue()).plain
    harmless(plain)
    assert "U+202E" in plain


def test_a_profiles_facts_are_shown(tmp_path):
    HeadScores([[1.0, 2.0]], {"kind": HOSTILE, HOSTILE: "x"}).save(tmp_path / "p.safetensors")
    result = call("profile", "show", tmp_path / "p.safetensors")
    assert result.exit_code == 0, result.output
    harmless(result.output)
    assert "<U+202E>" in result.output


def test_predictions_of_a_hostile_task_name_are_printed_and_refused_harmlessly(tmp_path):
    row = {"pred": HOSTILE, "answers": [HOSTILE], "all_classes": None, "dataset": HOSTILE}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    harmless(refused(call("eval", "--predictions", tmp_path / "predictions.jsonl")))
    (tmp_path / "hotpotqa.jsonl").write_text(json.dumps(row) + "\n")
    result = call("eval", "--predictions", tmp_path / "hotpotqa.jsonl")
    assert result.exit_code == 0
    harmless(result.output)


def test_a_hostile_file_name_in_an_error_is_shown(tmp_path):
    message = refused(call("profile", "show", tmp_path / f"a{HOSTILE}.safetensors"))
    harmless(message)
    assert "<U+202E>" in message
