"""`cokv report RUN --against PAPER`: a run's scores beside published ones, on the screen."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 200  # of a table in a file or a pipe
ALL = "all"


def print_against(run: Path, paper: str, unfinished: bool) -> None:
    """paper: as `cokv reported --paper` means it, or ALL. Writes nothing."""
    from reports import ReportError, load_run
    from reports.beside_papers import FIELDS_TABLE, beside_papers
    from reports.table import to_rich

    loaded = load_run(run, unfinished)
    try:
        sentences, tables = beside_papers(loaded, None if paper.lower() == ALL else paper)
    except ReportError as error:
        raise ReportError(str(error).replace("--paper", "--against", 1)) from None
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    for sentence in sentences:
        console.print(Text(sentence))
    for table in tables:
        console.print()
        if table.name == FIELDS_TABLE:  # long texts, which no column holds
            console.print(Text(table.title))
            for source, field, here, there, members, where in table.rows:
                of = "" if members.text == "all" else f" ({members.text})"
                console.print(
                    Text(f"  {source.text}, {field.text}{of}: here {here.text}; there {there.text} [{where.text}]")
                )
        else:
            console.print(to_rich(table))
        for note in table.notes:
            console.print(Text(note, style="dim"))
