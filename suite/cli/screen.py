"""What commands print: as wide as the terminal is, wide enough for a file or a pipe elsewhere, and never obeyed.

Answers, names and notes are whatever a model or a file put there. Cells that hold them are made visible where a table
is built, so that columns fit; whatever is missed there is made visible on its way out.
"""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from reports.text import visible

WIDE = 160  # columns of a file or a pipe


def screen(width: int = WIDE) -> Console:
    """A console for standard output; `width` columns where that is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=width)
    console.push_render_hook(_MadeVisible())
    return console


def show(*parts: RenderableType, width: int = WIDE) -> None:
    """Prints tables and texts, one below the other."""
    console = screen(width)
    for part in parts:
        console.print(part)


def json_text(value: Any) -> str:
    """JSON for people and programs: every character that is shown stands for itself, every other one is escaped."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


class _MadeVisible(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Visible(part) for part in renderables]


class _Visible:
    """Another renderable, with rich's own control codes and none of its texts'."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(visible(segment.text, lines=True), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.inner)
