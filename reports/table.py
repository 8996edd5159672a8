"""One table and how it is shown as Markdown and on a terminal; what each language needs escaped (LaTeX: latex.py).

A Table holds plain text only, and beside it the raw numbers that it shows; each renderer escapes for its own language.
Knows nothing of methods or scores.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from reports.text import code_point, visible

MISSING = "—"


@dataclass(frozen=True)
class Entry:
    """`text` is the number; `detail` (an interval, say) stands beside or under it; `mark` is a raised sign after it."""

    text: str = MISSING
    detail: str = ""
    bold: bool = False
    underline: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """`name` is the file stem. Rows may be grouped by rules and gaps (the row indices before which a new group begins)
    and by blocks with a title; columns by heads.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    rules: frozenset[int] = frozenset()
    left: int = 1  # leading columns that are text, aligned left
    wide: bool = False  # across both columns of a two-column page even where one would do
    heads: tuple[tuple[str, int], ...] = ()  # from the left: a title ("": none) over how many columns
    blocks: tuple[tuple[int, str], ...] = ()  # before which row, ascending, and under which title
    gaps: frozenset[int] = frozenset()  # a little room, smaller than a rule
    short: tuple[str, ...] = ()  # the columns' heads where room is scarce
    data: tuple[Mapping[str, Any], ...] = ()  # what the cells show, in full precision: one object of plain values each
    details: Literal["shown", "not in LaTeX", "apart"] = "shown"  # where not shown, they have a table of their own

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.name}: {len(row)} cells for {len(self.columns)} columns"
        spanned = sum(count for _, count in self.heads)
        assert not self.heads or spanned == len(self.columns), f"{self.name}: heads over {spanned} columns"
        assert not self.short or len(self.short) == len(self.columns), f"{self.name}: {len(self.short)} short heads"


def group_starts(keys: Sequence[object]) -> frozenset[int]:
    """Indices at which a sorted sequence of keys changes: where a new group of rows begins."""
    return frozenset(place for place in range(1, len(keys)) if keys[place] != keys[place - 1])


def companion(table: Table, what: str) -> Table | None:
    """The same table with each cell's detail in place of its number; None where no cell has one. what: the details."""
    if not any(item.detail for row in table.rows for item in row):
        return None
    rows = tuple(
        tuple(item if place < table.left else _detail(item) for place, item in enumerate(row)) for row in table.rows
    )
    title = f"{table.title}: {what}"
    return replace(table, name=f"{table.name}_{what}", title=title, rows=rows, notes=(), details="shown")


def _detail(item: Entry) -> Entry:
    number = re.fullmatch(r"[-+\N{MINUS SIGN}]?[\d.,]+", item.text)
    return Entry(item.detail or (MISSING if number else item.text))


_LATEX = {
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
    '"': "''",
    "`": r"\`{}",
    "[": "{[}",  # no option of the command before it
    "*": "{*}",
    "—": "---",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "…": r"\ldots{}",
    "°": r"$^\circ$",
    "·": r"$\cdot$",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "ß": r"{\ss}",
    "æ": r"{\ae}",
    "Æ": r"{\AE}",
    "œ": r"{\oe}",
    "Œ": r"{\OE}",
    "ø": r"{\o}",
    "Ø": r"{\O}",
    "ł": r"{\l}",
    "Ł": r"{\L}",
    "ı": r"{\i}",
} | {chr(code): rf"$\{name}$" for code, name in {
    945: "alpha", 946: "beta", 947: "gamma", 948: "delta", 949: "varepsilon", 951: "eta", 952: "theta", 955: "lambda",
    956: "mu", 181: "mu", 961: "rho", 963: "sigma", 964: "tau", 966: "varphi", 969: "omega", 8721: "sum",
}.items()}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


def latex_units(text: str) -> Iterator[tuple[str, str]]:
    """Each character of a text as it is seen, and as LaTeX that every font and engine has: ASCII letters, accents and
    symbols; any other character as its code point in typewriter letters.
    """
    before = ""
    for character in visible(text):
        before, last = character, before
        if character == last == "-":
            yield character, "{}-"  # two of them are no dash
        elif character in _LATEX:
            yield character, _LATEX[character]
        elif " " <= character <= "~":
            yield character, character
        else:
            base, *marks = list(unicodedata.normalize("NFD", character))
            if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii() and base.isalpha():
                letter = rf"\{base}" if base in "ij" else base
                yield base, rf"\{_ACCENTS[marks[0]]}{{{letter}}}"
            else:
                yield code_point(character), rf"\texttt{{{code_point(character)}}}"


def escape_latex(text: str) -> str:
    """For running text and cells; nothing in it is read as a command."""
    return "".join(latex for _, latex in latex_units(text))


_MARKUP = re.compile(r"[\\|*`~$]|<(?=[A-Za-z/!?])|&(?=[#A-Za-z])|(?<=\])[(:\[]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def escape_markdown(text: str) -> str:
    """Inside a line. Underscores inside a word are no emphasis in CommonMark, and brackets no link unless a
    parenthesis, colon or bracket follows: both stay readable as they are.
    """
    return _MARKUP.sub(r"\\\g<0>", visible(text))


def paragraph(text: str) -> str:
    """A paragraph of its own: what would begin a heading, list, quotation or code block is escaped too."""
    text = escape_markdown(text).strip()
    return re.sub(r"^(\d+)(?=[.)](\s|$))|^(?=[#>+=-])", lambda m: f"{m[1]}\\" if m[1] else "\\", text)


def column_words(column: str) -> list[str]:
    """Where a column's head may be broken; never between a number and its percent sign."""
    return [word for word in re.split(r"[_\s](?!%)", column) if word]


def to_markdown(table: Table, rows: Sequence[int] | None = None) -> str:
    """rows: only these, by index; all where left out."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def entry(item: Entry) -> str:
        text = escape_markdown(item.text)
        text = f"<ins>{text}</ins>" if item.underline else text
        text = (f"**{text}**" if item.bold else text) + item.mark
        return f"{text} {escape_markdown(item.detail)}" if item.detail and table.details != "apart" else text

    names = [escape_markdown(column) for column in table.columns]
    align = "|" + "|".join(":--" if place < table.left else "--:" for place in range(len(names))) + "|"
    if table.heads:
        over = [cell for title, count in table.heads for cell in (escape_markdown(title), *[""] * (count - 1))]
        lines = [line(over), align, line([f"**{name}**" if name else "" for name in names])]
    else:
        lines = [line(names), align]
    titles = dict(table.blocks)
    for number in range(len(table.rows)) if rows is None else rows:
        if number in titles:
            lines.append(line([f"*{escape_markdown(titles[number])}*", *[""] * (len(names) - 1)]))
        lines.append(line([entry(item) for item in table.rows[number]]))
    item = "* " if len(table.notes) > 1 else ""
    notes = "".join(f"{item}{paragraph(note)}\n" for note in table.notes)
    return f"**{escape_markdown(table.title)}**\n\n" + "\n".join(lines) + "\n" + ("\n" + notes if notes else "")


def to_rich(table: Table) -> RichTable:
    """For the terminal: two spaces between columns. Text is never read as markup, or obeyed by the terminal."""
    title = Text(visible(table.title))
    out = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(table.columns):
        justify: Literal["left", "right"] = "left" if place < table.left else "right"
        out.add_column(Text("\n".join(column_words(visible(column)))), justify=justify, no_wrap=True)
    titles = dict(table.blocks)
    for number, row in enumerate(table.rows):
        if number in table.rules or (number in titles and number):
            out.add_section()
        if number in titles:
            out.add_row(Text(visible(titles[number]), style="italic"))
        out.add_row(*(_rich_entry(item) for item in row))
    return out


def _rich_entry(item: Entry) -> Text:
    style = " ".join(["bold"] * item.bold + ["underline"] * item.underline)
    text = Text(visible(item.text), style=style)
    text.append(item.mark, style="not bold not underline") if item.mark else None
    return text.append(f" {visible(item.detail)}", style="not bold not underline") if item.detail else text
