"""The tables of a run on a screen: with bold on a terminal, else plain text of 100 columns with a star for bold."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from reports.chat import template_line
from reports.overview import overview_table
from reports.rundir import Run, load_run
from reports.score_tables import score_tables
from reports.table import Table, column_words, to_rich
from reports.tables import difference_tables, fact_notes
from reports.text import visible

PLAIN_WIDTH = 100
FEW = 10  # methods, the full cache among them, whose tables by task are printed on a screen


def terminal_table(run_dir: str | Path, console: Console | None = None, allow_unfinished: bool = False) -> None:
    """Print scores and differences of a run folder."""
    run = load_run(run_dir, allow_unfinished)
    console = console or Console()
    if console.is_terminal:
        _print(run, console, star="")
        return
    plain = Console(file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, highlight=False)
    with plain.capture() as capture:
        _print(run, plain, star="*")
    encoding = console.encoding
    lines = [line.rstrip() for line in capture.get().encode(encoding, "replace").decode(encoding).splitlines()]
    console.file.write("\n".join(lines) + "\n")


def _print(run: Run, console: Console, star: str) -> None:
    if not run.finished:
        console.print(Text("This run is not finished: the numbers are those of the records so far."))
    if line := template_line(run.records):
        console.print(Text(visible(line), style="dim"))
    labels = run.labels
    for table in _averages(run):
        console.print(to_rich(_narrowed(_starred(table, star), console.width)))
        console.print()
    if len(labels.variants) > FEW:
        best = f"{'Starred' if star else 'Bold'}: best of its budget. " if labels.ranks else ""
        base = labels.title(run.metrics["baseline"])
        signs = f"{best}†: differs from {base}, after correction over the table."
        notes = [signs, *fact_notes(run.metrics, labels), *labels.notes()]
        notes.append("Intervals, scores by task, and differences are in the report.")
        console.print(Text("\n".join(map(visible, notes)), style="dim"))
        return
    for table in score_tables(run.metrics, labels):
        for block in _blocks(_starred(table, star), console.width):
            console.print(to_rich(block))
            console.print()
        notes = [note.replace("the companion table", "the report") for note in (*table.notes, *labels.notes())]
        notes = [note.replace("in bold, second underlined", "starred") if star else note for note in notes]
        console.print(Text("\n".join(map(visible, notes)), style="dim"))
        console.print()
    for table in difference_tables(run.metrics, labels)[:1]:
        console.print(to_rich(_without(table, ("Pairs", "Differing"))))
        console.print()
        console.print(Text("\n".join(map(visible, table.notes)), style="dim"))


def _averages(run: Run) -> list[Table]:
    """A table per benchmark."""
    names = sorted({row["benchmark"] for row in run.metrics["averages"]})
    tables = [overview_table(run.metrics, run.labels, name) for name in names]
    return [table for table in tables if table is not None]


def _starred(table: Table, star: str) -> Table:
    rows = tuple(tuple(replace(c, text=c.text + star) if c.bold else c for c in row) for row in table.rows)
    return replace(table, rows=rows)


def _narrowed(table: Table, width: int) -> Table:
    """The table without its intervals where these would be cut off: half an interval says less than none."""
    columns = zip(
        *([table.columns] + [[f"{e.text}{e.mark} {e.detail}" for e in row] for row in table.rows]), strict=True
    )
    if sum(max(cell_len(visible(text)) for text in column) + 2 for column in columns) <= width:
        return table
    return replace(table, rows=tuple(tuple(replace(e, detail="") for e in row) for row in table.rows))


def _without(table: Table, names: Sequence[str]) -> Table:
    """The table without these columns, for which a screen has no room."""
    keep = [place for place, name in enumerate(table.columns) if name not in names]
    rows = tuple(tuple(row[place] for place in keep) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in keep), rows=rows)


def _blocks(table: Table, width: int) -> Iterator[Table]:
    """The table cut by columns to fit; the last column (the average) comes first and alone shows intervals."""
    last = len(table.columns) - 1
    cells = [[c if place == last else replace(c, detail="") for place, c in enumerate(row)] for row in table.rows]

    def text_width(place: int) -> int:
        texts = [visible(f"{row[place].text}{row[place].mark} {row[place].detail}").strip() for row in cells]
        texts += [title for _, title in table.blocks] if place == 0 else []
        return max(cell_len(text) for text in [*column_words(visible(table.columns[place])), *texts]) + 2

    fixed = sum(text_width(place) for place in range(table.left))
    parts: list[list[int]] = [[]]
    used = fixed
    for place in [last, *range(table.left, last)]:
        if parts[-1] and used + text_width(place) > width:
            parts.append([])
            used = fixed
        parts[-1].append(place)
        used += text_width(place)
    for number, part in enumerate(parts):
        keep = [*range(table.left), *part]
        yield replace(
            table,
            title=table.title if number == 0 else f"{table.title} (continued)",
            columns=tuple(table.columns[place] for place in keep),
            heads=(),
            short=(),
            rows=tuple(tuple(row[place] for place in keep) for row in cells),
        )
