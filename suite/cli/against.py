"""`cokv report RUN --against PAPER`: a run's scores beside published ones, on the screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from suite.cli.screen import screen

if TYPE_CHECKING:
    from reports.table import Entry, Table

PIPE_WIDTH = 120  # of a table in a file or a pipe
ALL = "all"
FIELDS = 3  # the column that is the same in many rows


def print_against(run: Path, paper: str, unfinished: bool) -> None:
    """paper: as `cokv reported --paper` means it, or ALL. Writes nothing."""
    from reports import ReportError, load_run
    from reports.beside_papers import beside_papers
    from reports.beside_tables import FIELDS_TABLE
    from reports.table import to_rich

    loaded = load_run(run, unfinished)
    try:
        sentences, tables = beside_papers(loaded, None if paper.lower() == ALL else paper)
    except ReportError as error:
        raise ReportError(str(error).replace("--paper", "--against", 1)) from None
    console = screen(PIPE_WIDTH)
    for sentence in sentences:
        console.print(Text(sentence))
    for table in tables:
        console.print(Text(f"\n{table.title}", style="bold"))
        if table.name == FIELDS_TABLE:  # long texts, which no column holds
            for row in table.rows:
                console.print(Text(_field_line(row)))
        else:
            for part in _parts(table):
                console.print(Text(f"\n{part.title}"))
                console.print(to_rich(replace(part, title="")))
        for note in table.notes:
            console.print(Text(note, style="dim"))


def _field_line(row: tuple[Entry, ...]) -> str:
    source, field, here, there, members, where = (entry.text for entry in row)
    of = "" if members == "all" else f" ({members})"
    return f"  {source}, {field}{of}: here {here}; there {there} [{where}]"


def _parts(table: Table) -> Iterator[Table]:
    """A table per block and fields that differ, so that a screen holds what is left."""
    groups: dict[tuple[str, str], list[tuple[Entry, ...]]] = {}
    titles = dict(table.blocks)
    block = ""
    for place, row in enumerate(table.rows):
        block = titles.get(place, block)
        groups.setdefault((block, row[FIELDS].text), []).append(row)
    kept = [place for place in range(len(table.columns)) if place != FIELDS]
    for (source, fields), rows in groups.items():
        yield replace(
            table,
            title=f"{source}. Fields that differ: {fields}",
            columns=tuple(table.columns[place] for place in kept),
            rows=tuple(tuple(row[place] for place in kept) for row in rows),
            blocks=(),
            left=table.left - 1,
        )
