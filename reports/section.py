"""A section of the report: what report.md shows of it, and the tables that stand in files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.table import Table, escape_markdown, paragraph, to_markdown

FOLDER = "tables"  # beside report.md
INLINE_ROWS = 60  # of a table; blocks of rows beyond them stand in its file only


@dataclass(frozen=True)
class Section:
    """`parts` is Markdown, already escaped; `tables` are those to be written to files, shown here or not."""

    title: str
    parts: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    folded: bool = False

    def markdown(self) -> str:
        """The section with its heading; folded, it is opened by its title."""
        body = "\n".join(self.parts)
        if self.folded:
            return f"<details><summary>{escape_markdown(self.title)}</summary>\n\n{body}\n\n</details>\n"
        return f"## {escape_markdown(self.title)}\n\n{body}"


def shown(table: Table, more: Iterable[Table] = (), rows: Sequence[int] | None = None) -> list[str]:
    """A table as far as it is short, or the rows asked for, and where all of it is. more: tables linked beside it."""
    rows = inline_rows(table) if rows is None else rows
    lines = [to_markdown(table, rows)] if rows else []
    left = "" if len(rows) == len(table.rows) else f"{len(rows) or 'None'} of its {len(table.rows)} rows are here. "
    lines.append(f"{left}{links(table)}" + "".join(f"; {link(other)}" for other in more) + ".\n")
    return lines


def said(sentences: Iterable[str]) -> list[str]:
    """Plain sentences as paragraphs."""
    return [f"{paragraph(sentence)}\n" for sentence in sentences]


def inline_rows(table: Table) -> range:
    """The rows of as many whole blocks, from the top, as fit INLINE_ROWS; of a table without blocks all or none."""
    if len(table.rows) <= INLINE_ROWS:
        return range(len(table.rows))
    ends = [row for row, _ in table.blocks if row <= INLINE_ROWS]
    return range(max(ends, default=0))


def link(table: Table) -> str:
    title = escape_markdown(table.title).replace("[", r"\[").replace("]", r"\]")
    return f"[{title}]({FOLDER}/{table.name}.md)"


def links(table: Table) -> str:
    """The table's files."""
    others = ", ".join(f"[{words}]({FOLDER}/{table.name}.{end})" for words, end in ENDS.items())
    return f"{link(table)}, as {others}"


ENDS = {"LaTeX": "tex", "CSV": "csv", "Parquet": "parquet"}
