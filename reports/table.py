"""One table, three ways to show it: Markdown, LaTeX (booktabs) and the terminal (rich).

A Table holds plain text only; each renderer escapes for its own language. Knows nothing of methods or scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

MISSING = "—"

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "—": "---",
        "\N{EN DASH}": "--",
        "\N{MINUS SIGN}": "$-$",
        "±": r"$\pm$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "†": r"$\dagger$",
        "…": r"\ldots{}",
    }
)


@dataclass(frozen=True)
class Entry:
    """`text` is the number; `detail` (an interval, say) stands beside or under it, smaller where that is possible."""

    text: str = MISSING
    detail: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """`name` is the file stem. `rules` are the row indices before which a new group begins."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    rules: frozenset[int] = frozenset()
    left: int = 1  # leading columns that are text, aligned left
    wide: bool = False  # fitted to the text's width in LaTeX, as tables of many columns are

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.name}: {len(row)} cells for {len(self.columns)} columns"


def group_starts(keys: Sequence[object]) -> frozenset[int]:
    """Indices at which a sorted sequence of keys changes: where a new group of rows begins."""
    return frozenset(place for place in range(1, len(keys)) if keys[place] != keys[place - 1])


def escape_latex(text: str) -> str:
    return re.sub(r"\s", " ", text).translate(_LATEX)


def escape_markdown(text: str) -> str:
    """Underscores inside a word are no emphasis in CommonMark and stay readable as they are."""
    text = re.sub(r"([\\|*`]|<(?=[A-Za-z/!?]))", r"\\\1", re.sub(r"\s", " ", text))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def column_words(column: str) -> list[str]:
    """Where a column's head may be broken; never between a number and its percent sign."""
    return [word for word in re.split(r"[_\s](?!%)", column) if word]


def to_markdown(table: Table) -> str:
    def entry(item: Entry) -> str:
        text = escape_markdown(item.text)
        text = f"**{text}**" if item.bold else text
        return f"{text} {escape_markdown(item.detail)}" if item.detail else text

    lines = [
        "| " + " | ".join(escape_markdown(column) for column in table.columns) + " |",
        "|" + "|".join(":--" if place < table.left else "--:" for place in range(len(table.columns))) + "|",
        *("| " + " | ".join(entry(item) for item in row) + " |" for row in table.rows),
    ]
    notes = "".join(f"\n{escape_markdown(note)}\n" for note in table.notes)
    return f"**{escape_markdown(table.title)}**\n\n" + "\n".join(lines) + "\n" + notes


def to_latex(table: Table) -> str:
    r"""A table environment that needs \usepackage[T1]{fontenc} and the packages booktabs and graphicx."""

    def head(column: str) -> str:
        parts = [escape_latex(part) for part in column_words(column)]
        return r"\shortstack{" + r"\\".join(parts) + "}" if len(parts) > 1 else "".join(parts)

    def entry(item: Entry) -> str:
        text = escape_latex(item.text)
        text = rf"\textbf{{{text}}}" if item.bold else text
        return rf"\shortstack{{{text}\\{{\tiny {escape_latex(item.detail)}}}}}" if item.detail else text

    columns = "l" * table.left + "r" * (len(table.columns) - table.left)
    body = []
    for number, row in enumerate(table.rows):
        if number in table.rules:
            body.append(r"\midrule")
        body.append(" & ".join(entry(item) for item in row) + r" \\")
    tabular = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(head(column) for column in table.columns) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if table.wide or len(table.columns) > 6:
        tabular = [r"\resizebox{\textwidth}{!}{%", *tabular, "}"]
    caption = " ".join(escape_latex(text) for text in (table.title + ".", *table.notes))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', table.name)}}}",
            *tabular,
            r"\end{table}",
            "",
        ]
    )


def to_rich(table: Table) -> RichTable:
    """For the terminal: two spaces between columns. Text is never read as markup."""
    out = RichTable(
        title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    for place, column in enumerate(table.columns):
        justify: Literal["left", "right"] = "left" if place < table.left else "right"
        out.add_column(Text("\n".join(column_words(column))), justify=justify, no_wrap=True)
    for number, row in enumerate(table.rows):
        if number in table.rules:
            out.add_section()
        out.add_row(*(_rich_entry(item) for item in row))
    return out


def _rich_entry(item: Entry) -> Text:
    text = Text(item.text, style="bold" if item.bold else "")
    return text.append(f" {item.detail}", style="not bold") if item.detail else text
